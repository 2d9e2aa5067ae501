//! Names that are taken, and what is wrong with others.

use super::problem::{Kind, Problem};

/// A DNS label: an app's name becomes part of its address.
const APP_LETTERS: usize = 63;
const NAME_BYTES: usize = 128;

pub(super) fn check_app(name: &str) -> Result<(), Problem> {
    let letters = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let fits = letters && (1..=APP_LETTERS).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-');
    match fits {
        true => Ok(()),
        false => Err(invalid("an app's name", name).help("use up to 63 of a-z, 0-9 and `-`, not `-` first or last")),
    }
}

/// Of PoPs, flags and settings.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), Problem> {
    let letters = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    match letters && (1..=NAME_BYTES).contains(&name.len()) {
        true => Ok(()),
        false => Err(invalid(what, name).help("use up to 128 letters, digits, `-`, `_` and `.`")),
    }
}

pub(super) fn check_variable(name: &str) -> Result<(), Problem> {
    let fits = (1..=NAME_BYTES).contains(&name.len()) && !name.contains(['=', '\0']);
    match fits {
        true => Ok(()),
        false => Err(invalid("an environment variable", name).help("use up to 128 bytes without `=`")),
    }
}

pub(super) fn check_host(host: &str) -> Result<(), Problem> {
    let label = |label: &str| {
        let letters = label
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        letters && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    match host.len() <= 253 && host.split('.').all(label) {
        true => Ok(()),
        false => Err(invalid("a host", host).help("use a host name in lower case, without port; others as punycode")),
    }
}

fn invalid(what: &str, name: &str) -> Problem {
    Problem::new(Kind::Invalid, format!("{name:?} cannot be {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (check, name, fits) in [
            (check_app as fn(&str) -> Result<(), Problem>, "shop-2", true),
            (check_app, "", false),
            (check_app, "-a", false),
            (check_app, "Shop", false),
            (check_app, "a.b", false),
            (check_host, "shop.example.com", true),
            (check_host, "localhost", true),
            (check_host, "shop..com", false),
            (check_host, "shop.example.com:80", false),
            (check_variable, "A_b", true),
            (check_variable, "a=b", false),
        ] {
            assert_eq!(check(name).is_ok(), fits, "{name}");
        }
        assert!(check_name("a flag", "checkout-v2.x_y").is_ok() && check_name("a flag", "a/b").is_err());
    }
}
