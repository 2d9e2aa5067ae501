//! Feature flags: as written, and which variant somebody gets.
//!
//! The first rule whose conditions all hold decides. A split is sticky: who has the same `targetingKey` gets the same
//! variant, at every PoP and after every restart, and raising a percentage takes nobody out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Who asks: OpenFeature's evaluation context.
pub type FlagContext = serde_json::Map<String, Value>;

/// Splits are exact to a hundredth of a percent.
const BUCKETS: u64 = 10_000;
const VARIANTS: usize = 100;
const RULES: usize = 100;
/// The attribute that a split goes by.
const TARGETING_KEY: &str = "targetingKey";

/// A flag, checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flag {
    /// Whether the rules apply; otherwise everybody gets `off`.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What the variants stand for; all of one type.
    #[serde(default = "on_and_off")]
    pub variants: BTreeMap<String, Value>,
    /// The variant of whom no rule names.
    #[serde(default = "off")]
    pub off: String,
    #[serde(default)]
    pub rules: Vec<FlagRule>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlagRule {
    /// All must hold; none is everybody.
    #[serde(default)]
    pub when: Vec<Condition>,
    pub serve: Serve,
}

/// A variant, or percentages of several; what is missing to a hundred gets `off`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Serve {
    Variant(String),
    Split(BTreeMap<String, f64>),
}

/// `{ "attribute": "country", "is": ["CH", "LI"] }`; a dot reaches into objects. Every test that is there must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Condition {
    pub attribute: String,
    /// One of these values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is: Option<Vec<Value>>,
    /// None of them; also when there is no such attribute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_not: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts_with: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_with: Option<Vec<String>>,
    /// A number of at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
    /// Whether there is such an attribute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FlagError {
    #[error("the flag cannot be read: {0}")]
    Unreadable(String),
    #[error("there is no variant \"{name}\"; there are {known}")]
    NoVariant { name: String, known: String },
    #[error("the variants are not all of one type")]
    Types,
    #[error("a flag has 1 to {VARIANTS} variants and at most {RULES} rules")]
    Size,
    #[error(
        "a condition has an attribute and at least one test of it: is, is_not, starts_with, ends_with, at_least, below, exists"
    )]
    Condition,
    #[error("percentages are 0 to 100, and 100 together at most")]
    Percent,
}

/// What somebody gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated<'f> {
    pub variant: &'f str,
    pub value: &'f Value,
    pub reason: Reason,
}

/// Why, in OpenFeature's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// The flag is not enabled.
    Disabled,
    /// No rule names them.
    Default,
    /// A rule's conditions.
    TargetingMatch,
    /// A percentage.
    Split,
    /// A rule without conditions.
    Static,
}

fn yes() -> bool {
    true
}

fn off() -> String {
    "off".to_owned()
}

fn on_and_off() -> BTreeMap<String, Value> {
    [
        ("on".to_owned(), Value::Bool(true)),
        ("off".to_owned(), Value::Bool(false)),
    ]
    .into()
}

impl Flag {
    pub fn parse(value: &Value) -> Result<Flag, FlagError> {
        let flag = Flag::deserialize(value).map_err(|error| FlagError::Unreadable(error.to_string()))?;
        flag.check()?;
        Ok(flag)
    }

    fn check(&self) -> Result<(), FlagError> {
        if !(1..=VARIANTS).contains(&self.variants.len()) || self.rules.len() > RULES {
            return Err(FlagError::Size);
        }
        let mut types = self.variants.values().map(std::mem::discriminant);
        // `true` and `false` are one type.
        let first = types.next();
        if types.any(|other| Some(other) != first) {
            return Err(FlagError::Types);
        }
        self.known(&self.off)?;
        for rule in &self.rules {
            if !rule.when.iter().all(Condition::says_something) {
                return Err(FlagError::Condition);
            }
            match &rule.serve {
                Serve::Variant(name) => self.known(name)?,
                Serve::Split(shares) => {
                    shares.keys().try_for_each(|name| self.known(name))?;
                    let fits = shares.values().all(|share| (0.0..=100.0).contains(share));
                    if !fits || shares.values().sum::<f64>() > 100.0 + f64::EPSILON {
                        return Err(FlagError::Percent);
                    }
                }
            }
        }
        Ok(())
    }

    fn known(&self, name: &str) -> Result<(), FlagError> {
        match self.variants.contains_key(name) {
            true => Ok(()),
            false => Err(FlagError::NoVariant {
                name: name.to_owned(),
                known: self.variants.keys().cloned().collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// What `context` gets of the flag of this name. A split without a `targetingKey` passes them over.
    pub fn evaluate<'f>(&'f self, name: &str, context: &FlagContext) -> Evaluated<'f> {
        if !self.enabled {
            return self.gets(&self.off, Reason::Disabled);
        }
        for rule in &self.rules {
            if !rule.when.iter().all(|condition| condition.holds(context)) {
                continue;
            }
            match &rule.serve {
                Serve::Variant(variant) if rule.when.is_empty() => return self.gets(variant, Reason::Static),
                Serve::Variant(variant) => return self.gets(variant, Reason::TargetingMatch),
                Serve::Split(shares) => {
                    let Some(Value::String(key)) = context.get(TARGETING_KEY) else {
                        continue;
                    };
                    return self.gets(share_of(shares, bucket(name, key)).unwrap_or(&self.off), Reason::Split);
                }
            }
        }
        self.gets(&self.off, Reason::Default)
    }

    fn gets<'f>(&'f self, variant: &'f str, reason: Reason) -> Evaluated<'f> {
        Evaluated {
            variant,
            value: self.variants.get(variant).unwrap_or(&Value::Null),
            reason,
        }
    }
}

impl Condition {
    fn holds(&self, context: &FlagContext) -> bool {
        let mut parts = self.attribute.split('.');
        let first = parts.next().and_then(|part| context.get(part));
        let nested = || parts.try_fold(first?, |value, part| value.get(part));
        let found = context.get(&self.attribute).or_else(nested);
        let text = found.and_then(Value::as_str);
        let number = found.and_then(Value::as_f64);
        let any = |options: &Vec<String>, fits: fn(&str, &str) -> bool| {
            text.is_some_and(|text| options.iter().any(|option| fits(text, option)))
        };
        let is = |values: &Vec<Value>| found.is_some_and(|found| values.contains(found));
        self.is.as_ref().is_none_or(is)
            && !self.is_not.as_ref().is_some_and(is)
            && self
                .starts_with
                .as_ref()
                .is_none_or(|options| any(options, |text, option| text.starts_with(option)))
            && self
                .ends_with
                .as_ref()
                .is_none_or(|options| any(options, |text, option| text.ends_with(option)))
            && self
                .at_least
                .is_none_or(|bound| number.is_some_and(|number| number >= bound))
            && self
                .below
                .is_none_or(|bound| number.is_some_and(|number| number < bound))
            && self.exists.is_none_or(|wanted| found.is_some() == wanted)
    }

    /// Without an attribute or a test it would hold of everybody, which nobody means.
    fn says_something(&self) -> bool {
        let is_empty = Condition {
            attribute: self.attribute.clone(),
            ..Condition::default()
        };
        !self.attribute.is_empty() && *self != is_empty
    }
}

/// 0 to 9999, evenly; of the first eight bytes of SHA-256(flag ‖ 0 ‖ key), big-endian.
fn bucket(flag: &str, key: &str) -> u64 {
    let mut digest = Sha256::new();
    digest.update(flag);
    digest.update([0]);
    digest.update(key);
    let digest = digest.finalize();
    let first: [u8; 8] = std::array::from_fn(|index| digest[index]);
    u64::from_be_bytes(first) % BUCKETS
}

/// The variant whose share of the buckets this is in; shares lie beside each other in the order of the names.
fn share_of(shares: &BTreeMap<String, f64>, bucket: u64) -> Option<&str> {
    let mut end = 0.0;
    let found = shares.iter().find(|(_, share)| {
        end += **share * (BUCKETS as f64 / 100.0);
        (bucket as f64) < end
    });
    found.map(|(name, _)| name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn context(value: Value) -> FlagContext {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn rules_decide_in_their_order() {
        let flag = json!({
            "variants": { "new": "n", "old": "o", "beta": "b" }, "off": "old",
            "rules": [
                { "when": [{ "attribute": "email", "ends_with": ["@example.com"] }], "serve": "beta" },
                { "when": [{ "attribute": "geo.country", "is": ["CH"] }, { "attribute": "age", "at_least": 18 }], "serve": "new" },
                { "when": [{ "attribute": "bot", "exists": true }], "serve": { "new": 100 } },
            ],
        });
        let flag = Flag::parse(&flag).unwrap();
        for (who, variant, reason) in [
            (
                json!({ "email": "a@example.com", "geo": { "country": "CH" } }),
                "beta",
                Reason::TargetingMatch,
            ),
            (
                json!({ "geo": { "country": "CH" }, "age": 18 }),
                "new",
                Reason::TargetingMatch,
            ),
            (json!({ "geo": { "country": "CH" }, "age": 17 }), "old", Reason::Default),
            (json!({ "bot": 1, "targetingKey": "x" }), "new", Reason::Split),
            (json!({ "bot": 1 }), "old", Reason::Default),
            (json!({}), "old", Reason::Default),
        ] {
            let evaluated = flag.evaluate("f", &context(who.clone()));
            assert_eq!((evaluated.variant, evaluated.reason), (variant, reason), "{who}");
        }
        let disabled = Flag { enabled: false, ..flag };
        assert_eq!(disabled.evaluate("f", &FlagContext::new()).reason, Reason::Disabled);
        let on = Flag::parse(&json!({ "rules": [{ "serve": "on" }] })).unwrap();
        assert_eq!(on.evaluate("f", &FlagContext::new()).value, &json!(true));
    }

    #[test]
    fn a_percentage_is_even_sticky_and_only_grows() {
        let on = |percent: f64, key: usize| {
            let flag = json!({ "rules": [{ "serve": { "on": percent } }] });
            let flag = Flag::parse(&flag).unwrap();
            flag.evaluate("checkout", &context(json!({ "targetingKey": format!("user-{key}") })))
                .variant
                == "on"
        };
        let count = (0..4000).filter(|key| on(25.0, *key)).count();
        assert!((900..1100).contains(&count), "{count}");
        assert!((0..4000).all(|key| !on(25.0, key) || on(50.0, key)));
        assert!((0..1000).all(|key| on(100.0, key) && !on(0.0, key)));
        // What a PoP of another version must find too.
        assert_eq!(
            [bucket("checkout", "user-1"), bucket("checkout", "user-2")],
            [593, 3267]
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (flag, expected) in [
            (
                json!({ "rules": [{ "serve": "onn" }] }),
                "there is no variant \"onn\"; there are off, on",
            ),
            (json!({ "off": "x" }), "there is no variant \"x\"; there are off, on"),
            (
                json!({ "variants": { "off": 1, "b": "x" } }),
                "the variants are not all of one type",
            ),
            (
                json!({ "rules": [{ "when": [{ "attribute": "a" }], "serve": "on" }] }),
                "a condition has an attribute and at least one test of it: is, is_not, starts_with, ends_with, at_least, below, exists",
            ),
            (
                json!({ "variants": {} }),
                "a flag has 1 to 100 variants and at most 100 rules",
            ),
            (
                json!({ "rules": [{ "serve": { "on": 60, "off": 60 } }] }),
                "percentages are 0 to 100, and 100 together at most",
            ),
            (
                json!({ "rules": [{ "serve": { "on": -1 } }] }),
                "percentages are 0 to 100, and 100 together at most",
            ),
        ] {
            assert_eq!(Flag::parse(&flag).unwrap_err().to_string(), expected);
        }
        for flag in [
            json!(true),
            json!({ "enabld": true }),
            json!({ "rules": [{ "when": [{ "attribute": "a", "iz": 1 }], "serve": "on" }] }),
        ] {
            assert!(matches!(Flag::parse(&flag), Err(FlagError::Unreadable(_))), "{flag}");
        }
    }
}
