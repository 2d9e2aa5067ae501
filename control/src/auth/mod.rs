//! Who asks, and what they may.

pub(crate) mod access;
pub(crate) mod caller;
pub(crate) mod key;
pub(crate) mod rate;
