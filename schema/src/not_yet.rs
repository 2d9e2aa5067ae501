//! Keys that belong to the vocabulary but not to this version. Each gets a plain answer instead of "unknown key".

/// Where (tokens of the pointer, `*` for any one) and the key.
const NOT_YET: &[(&str, &str)] = &[
    ("/listeners/*", "proxy_protocol"),
    ("/listeners/*/tls", "acme"),
    ("/listeners/*/tls", "client_auth"),
    ("/handlers/*", "outbound"),
    ("/handlers/*/bindings/*", "kv"),
    ("/handlers/*/bindings/*", "objects"),
    ("/handlers/*/bindings/*", "blob"),
    ("/cache", "disk"),
    ("/routes/*/match", "headers"),
    ("/routes/*/match", "query"),
    ("/routes/*/cache/isr", "prerender"),
    ("/routes/*/filters/*", "api_key"),
    ("/routes/*/filters/*", "oidc"),
    ("/routes/*/filters/*", "ip"),
    ("/routes/*/filters/*", "geo"),
    ("/routes/*/filters/*", "cors"),
    ("/routes/*/filters/*", "compress"),
    ("/routes/*/filters/*", "body_limit"),
    ("/routes/*/filters/*", "experiment"),
    ("/routes/*/filters/*", "wasm"),
];

/// True for a key of a later version in the mapping at `pointer`.
pub(crate) fn is_planned(pointer: &str, key: &str) -> bool {
    NOT_YET.iter().any(|(place, planned)| {
        *planned == key
            && place.split('/').count() == pointer.split('/').count()
            && place
                .split('/')
                .zip(pointer.split('/'))
                .all(|(pattern, token)| pattern == "*" || pattern == token)
    })
}
