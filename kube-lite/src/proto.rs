//! Objects in protobuf, which Go's typed clients send (`kubectl create configmap` among them). Only read: answers are
//! JSON, which those clients take too. Pure.
//!
//! A few lines name the fields of each message; what they do not name is dropped, like any unknown field.
//! Source: `generated.proto` of Kubernetes' API packages for numbers and types; protobuf docs, "Encoding".

use serde_json::{Map, Value, json};

/// What the envelope of an object begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Deeper nesting is nothing that a client of ours would send.
const MAX_DEPTH: usize = 32;

/// The fields of messages: `number name type`, where a type is `s` (text), `b` (bytes), `i` (number), `t` (true or
/// false), `time`, `micro` (a time with fractions), `port` (a number or a name), `<s` and `<b` (maps), or a message;
/// `*` before it makes a list.
const MESSAGES: &[(&str, &str)] = &[
    ("Unknown", "1 typeMeta TypeMeta,2 raw b,3 contentEncoding s,4 contentType s"),
    ("TypeMeta", "1 apiVersion s,2 kind s"),
    (
        "ObjectMeta",
        "1 name s,2 generateName s,3 namespace s,5 uid s,6 resourceVersion s,7 generation i,8 creationTimestamp time,\
         9 deletionTimestamp time,10 deletionGracePeriodSeconds i,11 labels <s,12 annotations <s,\
         13 ownerReferences *OwnerReference,14 finalizers *s",
    ),
    ("OwnerReference", "1 kind s,3 name s,4 uid s,5 apiVersion s,6 controller t,7 blockOwnerDeletion t"),
    (
        "DeleteOptions",
        "1 gracePeriodSeconds i,2 preconditions Preconditions,3 orphanDependents t,4 propagationPolicy s,5 dryRun *s",
    ),
    ("Preconditions", "1 uid s,2 resourceVersion s"),
    ("Namespace", "1 metadata ObjectMeta,2 spec NamespaceSpec,3 status NamespaceStatus"),
    ("NamespaceSpec", "1 finalizers *s"),
    ("NamespaceStatus", "1 phase s"),
    ("ConfigMap", "1 metadata ObjectMeta,2 data <s,3 binaryData <b,4 immutable t"),
    ("Secret", "1 metadata ObjectMeta,2 data <b,3 type s,4 stringData <s,5 immutable t"),
    (
        "ServiceAccount",
        "1 metadata ObjectMeta,2 secrets *ObjectReference,3 imagePullSecrets *LocalReference,4 automountServiceAccountToken t",
    ),
    ("LocalReference", "1 name s"),
    (
        "ObjectReference",
        "1 kind s,2 namespace s,3 name s,4 uid s,5 apiVersion s,6 resourceVersion s,7 fieldPath s",
    ),
    ("Service", "1 metadata ObjectMeta,2 spec ServiceSpec,3 status ServiceStatus"),
    (
        "ServiceSpec",
        "1 ports *ServicePort,2 selector <s,3 clusterIP s,4 type s,5 externalIPs *s,7 sessionAffinity s,8 loadBalancerIP s,\
         9 loadBalancerSourceRanges *s,10 externalName s,11 externalTrafficPolicy s,12 healthCheckNodePort i,\
         13 publishNotReadyAddresses t,14 sessionAffinityConfig SessionAffinityConfig,17 ipFamilyPolicy s,18 clusterIPs *s,\
         19 ipFamilies *s,20 allocateLoadBalancerNodePorts t,21 loadBalancerClass s,22 internalTrafficPolicy s,\
         23 trafficDistribution s",
    ),
    ("ServicePort", "1 name s,2 protocol s,3 port i,4 targetPort port,5 nodePort i,6 appProtocol s"),
    ("SessionAffinityConfig", "1 clientIP ClientIPConfig"),
    ("ClientIPConfig", "1 timeoutSeconds i"),
    ("ServiceStatus", "1 loadBalancer LoadBalancerStatus"),
    ("LoadBalancerStatus", "1 ingress *LoadBalancerIngress"),
    ("LoadBalancerIngress", "1 ip s,2 hostname s,3 ipMode s"),
    ("EndpointSlice", "1 metadata ObjectMeta,2 endpoints *Endpoint,3 ports *EndpointPort,4 addressType s"),
    (
        "Endpoint",
        "1 addresses *s,2 conditions EndpointConditions,3 hostname s,4 targetRef ObjectReference,5 deprecatedTopology <s,6 nodeName s,7 zone s,8 hints EndpointHints",
    ),
    ("EndpointConditions", "1 ready t,2 serving t,3 terminating t"),
    ("EndpointHints", "1 forZones *LocalReference,2 forNodes *LocalReference"),
    ("EndpointPort", "1 name s,2 protocol s,3 port i,4 appProtocol s"),
    ("Lease", "1 metadata ObjectMeta,2 spec LeaseSpec"),
    (
        "LeaseSpec",
        "1 holderIdentity s,2 leaseDurationSeconds i,3 acquireTime micro,4 renewTime micro,5 leaseTransitions i,6 strategy s,7 preferredHolder s",
    ),
    (
        "Event",
        "1 metadata ObjectMeta,2 involvedObject ObjectReference,3 reason s,4 message s,5 source EventSource,6 firstTimestamp time,\
         7 lastTimestamp time,8 count i,9 type s,10 eventTime micro,11 series EventSeries,12 action s,13 related ObjectReference,\
         14 reportingComponent s,15 reportingInstance s",
    ),
    ("EventSource", "1 component s,2 host s"),
    ("EventSeries", "1 count i,2 lastObservedTime micro"),
];

/// Why bytes are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("not a Kubernetes object in protobuf")]
    Garbled,
    #[error("kube-lite does not read {0} in protobuf, send JSON")]
    Unknown(String),
}

/// Reads an enveloped object.
pub(crate) fn read(bytes: &[u8]) -> Result<Value, Wrong> {
    let envelope =
        message(bytes.strip_prefix(MAGIC).ok_or(Wrong::Garbled)?, "Unknown", 0).ok_or(Wrong::Garbled)?;
    let text = |pointer: &str| envelope.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("/typeMeta/apiVersion"), text("/typeMeta/kind"));
    let raw = decode_base64(text("/raw")).ok_or(Wrong::Garbled)?;
    if !MESSAGES.iter().any(|(name, _)| *name == kind) {
        return Err(Wrong::Unknown(kind.to_owned()));
    }
    let mut object = message(&raw, kind, 0).ok_or(Wrong::Garbled)?;
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    Ok(object)
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).ok()
}

/// A field on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Wire<'a>)> {
    let tag = varint(bytes)?;
    let wire = match tag & 7 {
        0 => Wire::Number(varint(bytes)?),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            let (value, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Wire::Bytes(value)
        }
        // No message named here has fields of a fixed width.
        _ => return None,
    };
    Some((tag >> 3, wire))
}

fn message(mut bytes: &[u8], name: &str, depth: usize) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    let (_, known) = MESSAGES.iter().find(|(message, _)| *message == name)?;
    let mut object = Map::new();
    while !bytes.is_empty() {
        let (number, wire) = field(&mut bytes)?;
        let described = known.split(',').map(|field| field.split_whitespace().collect::<Vec<_>>());
        let found = described.into_iter().find(|parts| parts[0].parse() == Ok(number));
        let Some([_, name, kind]) = found.as_deref() else { continue };
        if let Some(kind) = kind.strip_prefix('*') {
            let value = value(wire, kind, depth)?;
            let items = object.entry(*name).or_insert_with(|| json!([]));
            items.as_array_mut()?.push(value);
        } else if let Some(kind) = kind.strip_prefix('<') {
            let Wire::Bytes(entry) = wire else { return None };
            let (key, value) = map_entry(entry, kind, depth)?;
            let values = object.entry(*name).or_insert_with(|| json!({}));
            values.as_object_mut()?.insert(key, value);
        } else {
            let value = value(wire, kind, depth)?;
            // Go writes texts and times also when they are empty.
            if value != "" && !value.is_null() {
                object.insert((*name).to_owned(), value);
            }
        }
    }
    Some(Value::Object(object))
}

fn value(wire: Wire<'_>, kind: &str, depth: usize) -> Option<Value> {
    Some(match (wire, kind) {
        (Wire::Number(number), "i") => (number.cast_signed()).into(),
        (Wire::Number(number), "t") => (number != 0).into(),
        (Wire::Bytes(bytes), "s") => std::str::from_utf8(bytes).ok()?.into(),
        (Wire::Bytes(bytes), "b") => {
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes).into()
        }
        (Wire::Bytes(bytes), "time" | "micro") => time(bytes, kind == "micro")?,
        (Wire::Bytes(bytes), "port") => port(bytes)?,
        (Wire::Bytes(bytes), name) => message(bytes, name, depth + 1)?,
        (Wire::Number(_), _) => return None,
    })
}

fn map_entry(mut bytes: &[u8], kind: &str, depth: usize) -> Option<(String, Value)> {
    let (mut key, mut found) = (String::new(), Value::from(""));
    while !bytes.is_empty() {
        match field(&mut bytes)? {
            (1, Wire::Bytes(bytes)) => key = std::str::from_utf8(bytes).ok()?.to_owned(),
            (2, wire) => found = value(wire, kind, depth)?,
            _ => {}
        }
    }
    Some((key, found))
}

/// Seconds and nanoseconds since 1970; what is before that is Go's zero time.
fn time(mut bytes: &[u8], fractions: bool) -> Option<Value> {
    let (mut seconds, mut nanos) = (0, 0);
    while !bytes.is_empty() {
        match field(&mut bytes)? {
            (1, Wire::Number(number)) => seconds = number.cast_signed(),
            (2, Wire::Number(number)) => nanos = i32::try_from(number).ok()?,
            _ => {}
        }
    }
    if seconds <= 0 {
        return Some(Value::Null);
    }
    let time = jiff::Timestamp::new(seconds, nanos).ok()?;
    let form = if fractions { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Some(time.strftime(form).to_string().into())
}

/// A number or a name.
fn port(mut bytes: &[u8]) -> Option<Value> {
    let (mut is_name, mut number, mut name) = (false, 0, "");
    while !bytes.is_empty() {
        match field(&mut bytes)? {
            (1, Wire::Number(kind)) => is_name = kind == 1,
            (2, Wire::Number(value)) => number = value,
            (3, Wire::Bytes(bytes)) => name = std::str::from_utf8(bytes).ok()?,
            _ => {}
        }
    }
    Some(if is_name { name.into() } else { number.into() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        field.extend(bytes);
        field
    }

    fn envelope(kind: &str, raw: &[u8]) -> Vec<u8> {
        let kind = [bytes_field(1, b"v1"), bytes_field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes_field(1, &kind), bytes_field(2, raw)].concat()
    }

    #[test]
    fn a_service_is_read_as_its_json_would_be() {
        let port =
            [bytes_field(1, b"http"), vec![3 << 3, 80], bytes_field(4, &[1 << 3, 0, 2 << 3, 0x90, 0x3f])]
                .concat();
        let selector = [bytes_field(1, b"app"), bytes_field(2, b"web")].concat();
        let spec = [bytes_field(1, &port), bytes_field(2, &selector), bytes_field(3, b"")].concat();
        let metadata = [bytes_field(1, b"web"), bytes_field(14, b"a/b"), bytes_field(8, &[])].concat();
        let raw = [bytes_field(1, &metadata), bytes_field(2, &spec)].concat();
        assert_eq!(
            read(&envelope("Service", &raw)).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "finalizers": ["a/b"]},
                "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}], "selector": {"app": "web"}},
            })
        );
    }

    #[test]
    fn what_is_not_known_is_named() {
        assert_eq!(read(&envelope("Pod", &[])), Err(Wrong::Unknown("Pod".to_owned())));
        assert_eq!(read(b"{}"), Err(Wrong::Garbled));
    }

    #[test]
    fn every_type_that_is_named_is_there() {
        for (message, fields) in MESSAGES {
            for field in fields.split(',') {
                let parts: Vec<_> = field.split_whitespace().collect();
                assert!(parts.len() == 3 && parts[0].parse::<u64>().is_ok(), "{message}: {field}");
                let kind = parts[2].trim_start_matches(['*', '<']);
                let plain = ["s", "b", "i", "t", "time", "micro", "port"].contains(&kind);
                assert!(plain || MESSAGES.iter().any(|(name, _)| *name == kind), "{message}: {field}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..100), kind in 0..MESSAGES.len()) {
            drop(read(&raw));
            drop(read(&envelope(MESSAGES[kind].0, &raw)));
        }
    }
}
