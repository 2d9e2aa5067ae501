//! Words for diagnostics: the nearest valid name, an enumeration.

/// The known name somebody most likely meant: at most a third of its letters differ. Case and `-` against `_` do not
/// count as differences.
pub(crate) fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let written = plain(written);
    let scored = known.map(|name| (strsim::osa_distance(&written, &plain(name)), name));
    let (distance, name) = scored.min_by_key(|(distance, _)| *distance)?;
    let longer = written.chars().count().max(name.chars().count());
    (distance <= longer.div_ceil(3) && distance < longer).then_some(name)
}

/// `"a", "b" or "c"`
pub(crate) fn one_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.as_slice() {
        [] => "nothing".to_owned(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names() {
        let check = |written: &str, expected: Option<&str>| {
            let known = ["address", "tls", "health_check", "http2", "retries"];
            assert_eq!(nearest(written, known.into_iter()), expected, "{written}");
        };
        check("adress", Some("address"));
        check("addresses", Some("address"));
        check("TLS", Some("tls"));
        check("health-check", Some("health_check"));
        check("healthCheck", Some("health_check"));
        check("helth_chek", Some("health_check"));
        check("http", Some("http2"));
        check("retry", Some("retries"));
        check("timeout", None);
        check("x", None);
        check("", None);
    }

    #[test]
    fn enumerations() {
        assert_eq!(one_of(&["a"]), r#""a""#);
        assert_eq!(one_of(&["a", "b", "c"]), r#""a", "b" or "c""#);
    }
}
