//! A component that is no handler: a command, which a route cannot end at.

wit_bindgen::generate!({ path: "../wit", world: "not-http", generate_all });

struct Command;

impl exports::wasi::cli0_2_12::run::Guest for Command {
    fn run() -> Result<(), ()> {
        Ok(())
    }
}

export!(Command);
