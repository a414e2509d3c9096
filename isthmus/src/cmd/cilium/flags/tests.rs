use super::*;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn of(line: &str) -> anyhow::Result<Given> {
    let own = [("cni".to_owned(), true), ("loud".to_owned(), false)];
    read(CLUSTERMESH, &own, &words(line), &|_| None)
}

/// Cilium's own list: name, type, default.
fn listed(program: &str) -> Vec<(String, String, String)> {
    let file = format!("{}/../mesh-types/tests/golden/v1.20/flags-{program}.tsv", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(file).unwrap();
    let row = |line: &str| {
        let mut columns = line.split('\t').map(str::to_owned);
        let mut column = || columns.next().unwrap_or_default();
        (column(), column(), column())
    };
    text.lines().map(row).collect()
}

fn kind(word: &str) -> Kind {
    match word {
        "bool" => Kind::Bool,
        "uint16" => Kind::Count(u16::MAX.into()),
        "uint32" => Kind::Count(u32::MAX.into()),
        "int" => Kind::Count(i64::MAX as u64),
        "uint" => Kind::Count(u64::MAX),
        "float32" => Kind::Float,
        "duration" => Kind::Duration,
        "string" => Kind::Text,
        "strings" => Kind::List,
        "stringToString" | "map" => Kind::Map,
        _ => panic!("no kind for {word}"),
    }
}

#[test]
fn the_tables_hold_exactly_the_flags_that_cilium_lists() {
    for (program, table) in
        [("clustermesh", CLUSTERMESH), ("kvstoremesh", KVSTOREMESH), ("etcdinit", ETCDINIT)]
    {
        let ours: Vec<_> = table
            .iter()
            .filter(|flag| !flag.hidden)
            .map(|flag| (flag.name.to_owned(), flag.kind, flag.default.to_owned()))
            .collect();
        let theirs: Vec<_> =
            listed(program).into_iter().map(|(name, word, default)| (name, kind(&word), default)).collect();
        assert_eq!(ours, theirs, "{program}");
    }
}

#[test]
fn flags_come_in_gos_forms() {
    let cases = [
        ("--cluster-id=7", "cluster-id", "7"),
        ("--cluster-id 7", "cluster-id", "7"),
        ("--cluster-id=6 --cluster-id=7", "cluster-id", "7"),
        ("--cluster-users-enabled", "cluster-users-enabled", "true"),
        ("--cluster-users-enabled=F", "cluster-users-enabled", "F"),
        ("--kvstore-opt=etcd.config=/x,etcd.qps=1", "kvstore-opt", "etcd.config=/x,etcd.qps=1"),
        ("", "health-port", "9880"),
    ];
    for (line, name, expected) in cases {
        assert_eq!(of(line).unwrap().value(CLUSTERMESH, name), expected, "{line}");
    }
    let both = of("--kvstore-opt=a=1 --kvstore-opt b=2").unwrap();
    assert_eq!(both.values("kvstore-opt"), ["a=1", "b=2"]);
    assert!(of("-h").unwrap().help && of("--help").unwrap().help);
}

#[test]
fn a_flag_wins_over_its_variable_and_the_variable_over_the_default() {
    let environment = |name: &str| match name {
        "CILIUM_CLUSTER_NAME" => Some("from-environment".to_owned()),
        "CILIUM_GOPS_PORT" => Some("1".to_owned()),
        "CLUSTER_ID" => Some("9".to_owned()),
        _ => None,
    };
    let given = read(CLUSTERMESH, &[], &[], &environment).unwrap();
    assert_eq!(given.value(CLUSTERMESH, "cluster-name"), "from-environment");
    assert_eq!(given.value(CLUSTERMESH, "cluster-id"), "", "only variables with the prefix count");
    assert!(given.accepted.contains("gops-port"));
    let given = read(CLUSTERMESH, &[], &words("--cluster-name=said"), &environment).unwrap();
    assert_eq!(given.value(CLUSTERMESH, "cluster-name"), "said");
    let wrong = read(CLUSTERMESH, &[], &[], &|name| (name == "CILIUM_CLUSTER_ID").then(|| "x".into()));
    assert!(wrong.unwrap_err().to_string().starts_with("CILIUM_CLUSTER_ID=x: expected a whole number"));
}

#[test]
fn what_cilium_would_refuse_is_refused_with_what_is_nearest() {
    let cases = [
        ("--clustername=x", "unknown flag --clustername; the nearest is --cluster-name"),
        ("--enable-mcs-api", "the nearest is --enable-"),
        ("--prometheus-serve-address=:1", "the nearest is --prometheus-serve-addr"),
        ("cluster-id=7", "expected a flag, such as --cluster-id"),
        ("--cluster-id", "--cluster-id: expected a value"),
        ("--cluster-id=-1", "expected a whole number"),
        ("--gops-port=65536", "expected a whole number from 0 to 65535"),
        ("--pprof=perhaps", "expected true or false"),
        ("--crd-wait-timeout=soon", "expected a duration"),
        ("--k8s-client-qps=fast", "expected a number"),
        ("--kvstore-opt=etcd.config", "expected KEY=VALUE"),
    ];
    for (line, expected) in cases {
        let error = of(line).unwrap_err().to_string();
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn flags_of_our_own_pass_as_they_are() {
    let given = of("--cni=none --cni auto --loud --cluster-id=1").unwrap();
    assert_eq!(given.own, ["--cni=none", "--cni=auto", "--loud"]);
}
