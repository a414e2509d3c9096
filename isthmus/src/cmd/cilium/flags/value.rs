//! Values in the forms that Go's flag packages take.

use super::Kind;
use crate::duration;

/// Whether Cilium would take the value; else what it expects.
pub(super) fn check(kind: Kind, value: &str) -> Result<(), String> {
    let fits = match kind {
        Kind::Bool => truth(value).is_some(),
        Kind::Count(max) => value.parse::<u64>().is_ok_and(|count| count <= max),
        Kind::Float => value.parse::<f32>().is_ok_and(f32::is_finite),
        Kind::Duration => duration_of(value).is_ok(),
        Kind::Map => value.is_empty() || pairs(value).all(|pair| pair.is_ok()),
        Kind::Text | Kind::List => true,
    };
    if fits {
        return Ok(());
    }
    Err(match kind {
        Kind::Bool => "true or false".to_owned(),
        Kind::Count(max) => format!("a whole number from 0 to {max}"),
        Kind::Float => "a number".to_owned(),
        Kind::Duration => "a duration such as 90s or 1h30m".to_owned(),
        Kind::Map => "KEY=VALUE".to_owned(),
        Kind::Text | Kind::List => "a text".to_owned(),
    })
}

/// The value of a flag that [`check`] accepted as [`Kind::Bool`].
pub(in crate::cmd::cilium) fn is_true(value: &str) -> bool {
    truth(value) == Some(true)
}

fn truth(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's form of a duration; a bare zero has no unit.
pub(super) fn duration_of(value: &str) -> Result<std::time::Duration, String> {
    if value == "0" { Ok(std::time::Duration::ZERO) } else { duration::parse(value) }
}

/// The parts of a [`Kind::Map`]: `a=1,b=2`.
pub(in crate::cmd::cilium) fn pairs(value: &str) -> impl Iterator<Item = Result<(&str, &str), &str>> {
    value.split(',').map(|part| part.split_once('=').ok_or(part))
}
