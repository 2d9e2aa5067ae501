//! Control: one of the two things it can be, with what belongs to it.

use super::Checker;

impl Checker<'_> {
    pub(super) fn control(&mut self) {
        let config = self.config;
        let Some(control) = &config.control else { return };
        match (&control.plane, &control.link) {
            (None, None) => {
                let help =
                    "`listen: 127.0.0.1:7200` for the control plane, or `url: https://…` for a PoP of one".to_owned();
                self.error("/control", "`control` has neither `listen` nor `url`", help);
            }
            (Some(_), Some(_)) => {
                let help = "a PoP beside the control plane has a file of its own".to_owned();
                self.error("/control/url", "`control` has both `listen` and `url`", help);
            }
            (Some(plane), None) => {
                if plane.tls.is_none() && !plane.listen.ip().to_canonical().is_loopback() {
                    let message = format!(
                        "control listens on {}, which others can reach, without TLS",
                        plane.listen
                    );
                    let help = "add `tls: { cert: …, key: … }`, or listen on 127.0.0.1".to_owned();
                    self.error("/control/listen", message, help);
                }
            }
            (None, Some(link)) => {
                if link.token.is_empty() {
                    let help = "add `token: \"${file:…}\"`; `selvedge pops invite` makes one".to_owned();
                    self.error("/control", "`control` has a url and no token", help);
                }
            }
        }
        if config.agent.is_none() {
            let help = "add an `agent`: it keeps the databases in which control writes and PoPs read".to_owned();
            self.error("/control", "`control` needs an agent beside it", help);
        }
    }
}
