//! JSON as Go's `encoding/json` reads and writes it.
//!
//! Cilium compares values byte for byte, so ours must be the same bytes: fields in order of declaration, map keys
//! sorted, `<`, `>`, `&`, U+2028 and U+2029 escaped, `null` for what is nil in Go. Reading is Go's too: names match
//! without regard to case (an exact match wins), unknown fields are passed over, `null` leaves the zero value.
//! Source: Go `encoding/json`, *Marshal* and *Unmarshal*.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::IpAddr;

use crate::Reason;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq, Serializer};

/// A type with a form in Go's JSON. Its default is the value of a field that the text lacks or names `null`.
pub(crate) trait GoJson: Default {
    /// Whether Go's `omitempty` leaves the field out.
    fn is_empty(&self) -> bool;
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

/// Bridges [`GoJson`] to serde on the way out.
pub(crate) struct Out<'a, T>(pub(crate) &'a T);

impl<T: GoJson> serde::Serialize for Out<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.write(serializer)
    }
}

/// Bridges [`GoJson`] to serde on the way in; `null` gives the zero value.
pub(crate) struct In<T>(PhantomData<T>);

impl<T> In<T> {
    pub(crate) fn new() -> Self {
        In(PhantomData)
    }
}

impl<'de, T: GoJson> DeserializeSeed<'de> for In<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        struct OrNull<T>(PhantomData<T>);
        impl<'de, T: GoJson> Visitor<'de> for OrNull<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or null")
            }
            fn visit_unit<E>(self) -> Result<T, E> {
                Ok(T::default())
            }
            fn visit_none<E>(self) -> Result<T, E> {
                Ok(T::default())
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
                T::read(deserializer)
            }
        }
        deserializer.deserialize_option(OrNull(PhantomData))
    }
}

/// Writes `value` as Go would.
pub(crate) fn to_vec<T: GoJson>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, GoEscapes);
    value
        .write(&mut serializer)
        .expect("writing to memory cannot fail and no map has keys other than strings");
    bytes
}

/// Why a value is refused whose JSON cannot be read: addresses and networks are text on the wire and can be malformed by
/// themselves. What the peer wrote comes before the expectation, so it cannot choose.
pub(crate) fn reason_of(error: &serde_json::Error) -> Reason {
    let text = error.to_string();
    let expected = text.rsplit_once(", expected ").map_or("", |(_found, expected)| expected);
    let is = |what: &str| expected.starts_with(what);
    if is("an IP address") {
        Reason::AddressInvalid
    } else if is("a CIDR") || is("base64 of a mask") {
        Reason::CidrInvalid
    } else {
        Reason::ValueNotJson
    }
}

/// Reads one JSON value that fills `bytes`.
pub(crate) fn from_slice<T: GoJson>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = In::<T>::new().deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Escapes, besides what JSON demands, what Go escapes for the sake of HTML and JavaScript.
struct GoEscapes;

impl serde_json::ser::Formatter for GoEscapes {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (plain, special) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let c = special.chars().next().expect("find gave the place of a character");
            write!(writer, "\\u{:04x}", u32::from(c))?;
            rest = &special[c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

macro_rules! plain {
    ($type:ty, $is_empty:expr) => {
        impl GoJson for $type {
            fn is_empty(&self) -> bool {
                let is_empty: fn(&$type) -> bool = $is_empty;
                is_empty(self)
            }
            fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serde::Serialize::serialize(self, serializer)
            }
            fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <$type as serde::Deserialize>::deserialize(deserializer)
            }
        }
    };
}

plain!(String, |text| text.is_empty());
plain!(bool, |flag| !flag);
plain!(u8, |n| *n == 0);
plain!(u16, |n| *n == 0);
plain!(u32, |n| *n == 0);
plain!(i32, |n| *n == 0);

/// A pointer in Go: `null` and absent are the same, and a present zero value is not empty.
macro_rules! pointer {
    ($type:ty) => {
        impl $crate::gojson::GoJson for Option<$type> {
            fn is_empty(&self) -> bool {
                self.is_none()
            }
            fn write<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    Some(value) => $crate::gojson::GoJson::write(value, serializer),
                    None => serializer.serialize_unit(),
                }
            }
            fn read<'de, D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <$type as $crate::gojson::GoJson>::read(deserializer).map(Some)
            }
        }
    };
}
pub(crate) use pointer;

pointer!(bool);

/// `net.IP`: text, `""` when nil; an IPv4-mapped address is IPv4.
impl GoJson for Option<IpAddr> {
    fn is_empty(&self) -> bool {
        self.is_none()
    }
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Some(ip) => serializer.collect_str(&ip.to_canonical()),
            None => serializer.serialize_str(""),
        }
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str> as serde::Deserialize>::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        match text.parse::<IpAddr>() {
            Ok(ip) => Ok(Some(ip.to_canonical())),
            Err(_malformed) => Err(de::Error::invalid_value(de::Unexpected::Str(&text), &"an IP address")),
        }
    }
}

impl<T: GoJson> GoJson for Vec<T> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.len()))?;
        for item in self {
            seq.serialize_element(&Out(item))?;
        }
        seq.end()
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);
        impl<'de, T: GoJson> Visitor<'de> for Items<T> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element_seed(In::new())? {
                    items.push(item);
                }
                Ok(items)
            }
        }
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

impl<T: GoJson> GoJson for BTreeMap<String, T> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (key, value) in self {
            map.serialize_entry(key, &Out(value))?;
        }
        map.end()
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: GoJson> Visitor<'de> for Entries<T> {
            type Value = BTreeMap<String, T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    entries.insert(key, map.next_value_seed(In::new())?);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// Index of the field called `name` in Go's way: exactly, else without regard to ASCII case.
pub(crate) fn field_index(fields: &[&str], name: &str) -> Option<usize> {
    let exact = fields.iter().position(|field| *field == name);
    exact.or_else(|| fields.iter().position(|field| field.eq_ignore_ascii_case(name)))
}

/// Declares a struct with its Go names, in Go's order, with Go's `omitempty` and nil rules.
///
/// `= "Name"` always writes the field, `= "Name" omitempty` leaves it out when empty, `= "Name" null` writes
/// `null` when empty (a nil slice or map).
macro_rules! go_struct {
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$fmeta:meta])* pub $field:ident: $type:ty = $json:literal $($mode:ident)?,)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$fmeta])* pub $field: $type,)+
        }

        impl $crate::gojson::GoJson for $name {
            fn is_empty(&self) -> bool {
                false
            }
            fn write<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use ::serde::ser::SerializeMap as _;
                let mut map = serializer.serialize_map(None)?;
                $($crate::gojson::go_struct!(@write map, $json, &self.$field $(, $mode)?);)+
                map.end()
            }
            fn read<'de, D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                const FIELDS: &[&str] = &[$($json,)+];
                struct Fields;
                impl<'de> ::serde::de::Visitor<'de> for Fields {
                    type Value = $name;
                    fn expecting(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                        f.write_str(concat!("an object (", stringify!($name), ")"))
                    }
                    fn visit_map<A: ::serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        let mut value = $name::default();
                        while let Some(key) = map.next_key::<::std::borrow::Cow<'de, str>>()? {
                            let index = $crate::gojson::field_index(FIELDS, &key);
                            let mut at = 0_usize..;
                            $(if index == at.next() {
                                value.$field = map.next_value_seed($crate::gojson::In::<$type>::new())?;
                                continue;
                            })+
                            map.next_value::<::serde::de::IgnoredAny>()?;
                        }
                        Ok(value)
                    }
                }
                deserializer.deserialize_map(Fields)
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::gojson::GoJson::write(self, serializer)
            }
        }
    };
    (@write $map:ident, $json:literal, $value:expr) => {
        $map.serialize_entry($json, &$crate::gojson::Out($value))?;
    };
    (@write $map:ident, $json:literal, $value:expr, omitempty) => {
        if !$crate::gojson::GoJson::is_empty($value) {
            $map.serialize_entry($json, &$crate::gojson::Out($value))?;
        }
    };
    (@write $map:ident, $json:literal, $value:expr, null) => {
        if $crate::gojson::GoJson::is_empty($value) {
            $map.serialize_entry($json, &())?;
        } else {
            $map.serialize_entry($json, &$crate::gojson::Out($value))?;
        }
    };
}
pub(crate) use go_struct;

#[cfg(test)]
#[expect(unreachable_pub, reason = "the macro declares public structs")]
mod tests {
    use super::*;

    go_struct! {
        /// Sample.
        pub struct Sample {
            /// A name.
            pub name: String = "Name",
            /// Lower-case twin.
            pub labels: BTreeMap<String, String> = "labels" omitempty,
            /// Upper-case twin.
            pub legacy: BTreeMap<String, String> = "Labels" omitempty,
            /// Nil when empty.
            pub list: Vec<u8> = "List" null,
        }
    }

    #[test]
    fn escapes_are_those_of_go() {
        let text = "a<b>&c\u{2028}\u{2029}\"\\\n\u{1}é".to_owned();
        assert_eq!(
            String::from_utf8(to_vec(&text)).unwrap(),
            r#""a\u003cb\u003e\u0026c\u2028\u2029\"\\\n\u0001é""#
        );
    }

    #[test]
    fn names_match_without_case_but_exact_ones_first() {
        let read = |text: &str| from_slice::<Sample>(text.as_bytes()).unwrap();
        assert_eq!(read(r#"{"NAME":"x","unknown":{"deep":[1]}}"#).name, "x");
        let twins = read(r#"{"labels":{"a":"1"},"Labels":{"b":"2"}}"#);
        assert_eq!(twins.labels.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(twins.legacy.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(read(r#"{"Name":null,"List":null}"#), Sample::default());
    }

    #[test]
    fn empty_values_are_omitted_or_null_as_declared() {
        assert_eq!(to_vec(&Sample::default()), br#"{"Name":"","List":null}"#);
    }

    #[test]
    fn trailing_text_is_an_error() {
        assert!(from_slice::<Sample>(b"{} {}").is_err());
    }
}
