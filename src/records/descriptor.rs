//! Descriptors in what a program hands over to the one that takes its place: they are written as
//! `{"descriptor": NUMBER}`, and the other program, which has inherited them, makes copies. So what was handed over stays
//! whole if that program can't read all of it.
//!
//! These are for `#[serde(with = "...")]`.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::sys::descriptors::duplicate;

/// The name of the number.
const NUMBER: &str = "descriptor";

/// A descriptor as it's written.
#[derive(Serialize, Deserialize)]
struct Written {
    descriptor: RawFd,
}

impl Written {
    fn of(file: impl AsFd) -> Self {
        Self { descriptor: file.as_fd().as_raw_fd() }
    }

    fn copy<E: serde::de::Error>(self) -> Result<OwnedFd, E> {
        let Self { descriptor } = self;
        duplicate(descriptor).map_err(|errno| E::custom(format_args!("descriptor {descriptor}: {errno}")))
    }
}

/// A descriptor with this number in a document.
pub fn written(number: RawFd) -> Value {
    serde_json::json!({ NUMBER: number })
}

/// Replaces the numbers of all descriptors in a document.
pub fn renumber(document: &mut Value, other: &impl Fn(RawFd) -> RawFd) {
    match document {
        Value::Object(fields) => match fields.get_mut(NUMBER) {
            Some(number) => {
                let own = number.as_i64().and_then(|number| RawFd::try_from(number).ok());
                *number = own.map_or(Value::Null, |own| other(own).into());
            }
            None => fields.values_mut().for_each(|value| renumber(value, other)),
        },
        Value::Array(values) => values.iter_mut().for_each(|value| renumber(value, other)),
        _ => {}
    }
}

/// The numbers of all descriptors in a document.
pub fn numbers(document: &Value) -> Vec<RawFd> {
    match document {
        Value::Object(fields) => match fields.get(NUMBER).and_then(Value::as_i64) {
            Some(number) => RawFd::try_from(number).into_iter().collect(),
            None => fields.values().flat_map(numbers).collect(),
        },
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        _ => Vec::new(),
    }
}

/// Writes a descriptor.
///
/// # Errors
/// Those of the format.
pub fn serialize<S: Serializer>(file: impl AsFd, to: S) -> Result<S::Ok, S::Error> {
    Written::of(file).serialize(to)
}

/// Reads and copies a descriptor.
///
/// # Errors
/// If it isn't open, or no descriptor is left.
pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<OwnedFd, D::Error> {
    Written::deserialize(from)?.copy()
}

/// The same for a descriptor that may be missing.
pub mod optional {
    use super::*;

    /// Writes a descriptor, if there's one.
    ///
    /// # Errors
    /// Those of the format.
    pub fn serialize<S: Serializer>(file: &Option<OwnedFd>, to: S) -> Result<S::Ok, S::Error> {
        file.as_ref().map(Written::of).serialize(to)
    }

    /// Reads and copies a descriptor, if there's one.
    ///
    /// # Errors
    /// As [`super::deserialize`].
    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Option<OwnedFd>, D::Error> {
        Option::<Written>::deserialize(from)?.map(Written::copy).transpose()
    }
}

/// The same for several descriptors.
pub mod list {
    use super::*;

    /// Writes the descriptors.
    ///
    /// # Errors
    /// Those of the format.
    pub fn serialize<S: Serializer>(files: &[OwnedFd], to: S) -> Result<S::Ok, S::Error> {
        files.iter().map(Written::of).collect::<Vec<_>>().serialize(to)
    }

    /// Reads and copies the descriptors.
    ///
    /// # Errors
    /// As [`super::deserialize`].
    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<OwnedFd>, D::Error> {
        Vec::<Written>::deserialize(from)?.into_iter().map(Written::copy).collect()
    }
}
