//! The phases of a request, in the order they run.

pub(crate) mod arrive;

pub(crate) mod admit;

pub(crate) mod bookmarks;

pub(crate) mod caching;

pub(crate) mod origin;

pub(crate) mod respond;

pub(crate) mod finish;
