//! CIDRs and masks as Go's `net.IPNet` and `net.IPMask` stand in JSON.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};

use crate::gojson::{GoJson, In, field_index, pointer};

/// A network, `{"IP":"10.70.1.0","Mask":"////AA=="}`.
///
/// Also reads the text form `"10.70.1.0/24"` that Cilium announced for 1.22.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(pub IpNet);

/// Every IPv4 address, `0.0.0.0/0`.
impl Default for Cidr {
    fn default() -> Self {
        Cidr(IpNet::V4(ipnet::Ipv4Net::default()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `net.IPMask`: base64 of 4 or 16 bytes, `null` for none; kept as its number of leading ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Leading ones, 0 to 32 or 128.
    pub ones: u8,
    /// 32 or 128.
    pub bits: u8,
}

impl Mask {
    /// The mask of a network.
    pub fn of(net: IpNet) -> Self {
        Mask { ones: net.prefix_len(), bits: net.max_prefix_len() }
    }

    fn bytes(self) -> Vec<u8> {
        let mask = if self.ones == 0 { 0 } else { u128::MAX << (128 - u32::from(self.ones)) };
        mask.to_be_bytes()[..usize::from(self.bits) / 8].to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bits = match bytes.len() {
            4 => 32,
            16 => 128,
            _ => return None,
        };
        let mut padded = [0; 16];
        padded[..bytes.len()].copy_from_slice(bytes);
        let mask = u128::from_be_bytes(padded);
        let ones = mask.leading_ones();
        let mask = Mask { ones: u8::try_from(ones).ok()?, bits };
        (mask.bytes() == bytes).then_some(mask)
    }
}

impl GoJson for Option<Mask> {
    fn is_empty(&self) -> bool {
        self.is_none()
    }
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Some(mask) => serializer.serialize_str(&STANDARD.encode(mask.bytes())),
            None => serializer.serialize_unit(),
        }
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str> as serde::Deserialize>::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        let bytes = STANDARD.decode(text.as_bytes()).map_err(de::Error::custom)?;
        let mask = Mask::from_bytes(&bytes);
        mask.map(Some).ok_or_else(|| {
            de::Error::invalid_value(
                de::Unexpected::Str(&text),
                &"base64 of a mask of 4 or 16 bytes without holes",
            )
        })
    }
}

impl GoJson for Cidr {
    fn is_empty(&self) -> bool {
        false
    }
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("IP", &self.0.addr())?;
        map.serialize_entry("Mask", &STANDARD.encode(Mask::of(self.0).bytes()))?;
        map.end()
    }
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = Cidr;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a network as {\"IP\",\"Mask\"} or as text")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cidr, E> {
                // An IPv4-mapped address is IPv4, and has no place in a network of 128 bits.
                let net = text.parse::<IpNet>().ok().filter(|net| net.addr() == net.addr().to_canonical());
                net.map(Cidr).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &"a CIDR"))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cidr, A::Error> {
                let (mut ip, mut mask) = (None, None);
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    match field_index(&["IP", "Mask"], &key) {
                        Some(0) => ip = map.next_value_seed(In::<Option<IpAddr>>::new())?,
                        Some(_mask) => mask = map.next_value_seed(In::<Option<Mask>>::new())?,
                        None => {
                            map.next_value::<de::IgnoredAny>()?;
                        }
                    }
                }
                let ip: IpAddr = ip.ok_or_else(|| de::Error::missing_field("IP"))?;
                let mask: Mask = mask.ok_or_else(|| de::Error::missing_field("Mask"))?;
                let net = IpNet::new(ip, mask.ones).ok().filter(|net| net.max_prefix_len() == mask.bits);
                net.map(Cidr).ok_or_else(|| {
                    let found = de::Unexpected::Other("mask and address of different families");
                    de::Error::invalid_value(found, &"a CIDR")
                })
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

pointer!(Cidr);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gojson::{from_slice, to_vec};

    #[test]
    fn masks_of_every_length_round_trip() {
        for (bits, base) in [(32_u8, "10.0.0.0"), (128, "fd00::")] {
            for ones in 0..=bits {
                let net: IpNet = format!("{base}/{ones}").parse().unwrap();
                let cidr = Some(Cidr(net));
                assert_eq!(from_slice::<Option<Cidr>>(&to_vec(&cidr)).unwrap(), cidr);
            }
        }
    }

    #[test]
    fn all_three_forms_are_read() {
        let net = Some(Cidr("10.70.1.0/24".parse().unwrap()));
        let cases = [
            (r#"{"IP":"10.70.1.0","Mask":"////AA=="}"#, Some(net)),
            (r#"{"ip":"10.70.1.0","mask":"////AA==","x":1}"#, Some(net)),
            (r#""10.70.1.0/24""#, Some(net)),
            ("null", Some(None)),
            (r#"{"IP":"10.70.1.0","Mask":"/wD/AA=="}"#, None),
            (r#"{"IP":"10.70.1.0","Mask":"//////////8AAAAAAAAAAA=="}"#, None),
            (r#"{"IP":"10.70.1.0","Mask":null}"#, None),
            (r#"{"Mask":"////AA=="}"#, None),
            (r#""10.70.1.0/33""#, None),
            ("7", None),
        ];
        for (text, expected) in cases {
            assert_eq!(from_slice::<Option<Cidr>>(text.as_bytes()).ok(), expected, "{text}");
        }
    }
}
