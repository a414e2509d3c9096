use std::os::unix::fs::PermissionsExt;

use super::*;

fn write(path: &Path, bytes: &[u8], mode: u32) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn message(path: &Path) -> String {
    PrivateKey::load_or_create(path).err().expect("the file must be refused").to_string()
}

#[test]
fn a_missing_key_is_made_once_and_then_reused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state/cilium_wg0.key");
    let made = PrivateKey::load_or_create(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(std::fs::read(&path).unwrap().len(), 32);
    let again = PrivateKey::load_or_create(&path).unwrap();
    assert_eq!(made.public(), again.public());
    assert_eq!(
        std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1,
        "nothing is left beside the key"
    );
}

#[test]
fn of_two_that_start_at_once_both_get_the_same_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cilium_wg0.key");
    let (start, path) = (&std::sync::Barrier::new(8), &path);
    let keys: Vec<_> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(move || {
                    start.wait();
                    PrivateKey::load_or_create(path).unwrap().public()
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[test]
fn an_existing_key_is_never_overwritten_by_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cilium_wg0.key");
    write(&path, &[7; 32], 0o600);
    let refused = PrivateKey::generate().unwrap().store_new(&path).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&path).unwrap(), [7; 32]);
}

#[test]
fn a_malformed_key_file_is_refused_and_left_alone() {
    let text = b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
    let cases: [(&str, &[u8], &str); 5] = [
        ("empty", b"", "found 0 bytes;"),
        ("short", &[1; 31], "found 31 bytes;"),
        ("long", &[1; 33], "found 33 bytes;"),
        ("base64", text, "found 45 bytes (base64 text"),
        ("zero", &[0; 32], "found 32 zero bytes;"),
    ];
    for (name, bytes, expected) in cases {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cilium_wg0.key");
        write(&path, bytes, 0o600);
        let message = message(&path);
        assert!(message.contains(expected), "{name}: {message}");
        assert!(
            message.contains("expected 32 raw bytes") && message.contains("delete it and restart"),
            "{name}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}");
    }
}

#[test]
fn a_directory_in_place_of_the_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert!(message(directory.path()).contains("no regular file"));
}

#[test]
fn an_error_never_shows_the_bytes_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cilium_wg0.key");
    write(&path, b"hunter2-hunter2-hunter2-hunter2-hunter2", 0o600);
    let error = PrivateKey::load_or_create(&path).err().unwrap();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[test]
fn permissions_for_others_are_taken_away() {
    let directory = tempfile::tempdir().unwrap();
    for before in [0o644, 0o640, 0o604, 0o777] {
        let path = directory.path().join(format!("{before:o}"));
        write(&path, &[7; 32], before);
        PrivateKey::load_or_create(&path).unwrap();
        assert_eq!(mode(&path), 0o600, "from {before:o}");
    }
    let path = directory.path().join("read-only");
    write(&path, &[7; 32], 0o400);
    PrivateKey::load_or_create(&path).unwrap();
    assert_eq!(mode(&path), 0o400, "stricter than 0600 stays");
}

#[test]
fn generated_keys_are_clamped_and_differ() {
    let (one, two) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    assert_ne!(one.public(), two.public());
    let bytes = one.0.to_bytes();
    assert_eq!((bytes[0] & 7, bytes[31] & 0xc0), (0, 0x40));
}

#[test]
fn the_public_key_is_that_of_rfc7748_6_1() {
    let secret = [
        0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45, 0xdf,
        0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a,
    ];
    let public = PrivateKey(x25519::StaticSecret::from(secret)).public();
    assert_eq!(public.to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
}

#[test]
fn a_public_key_is_read_and_printed_as_44_characters() {
    let text = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let key: PublicKey = text.parse().unwrap();
    assert_eq!(key.as_bytes().as_slice(), (0..32).collect::<Vec<u8>>());
    assert_eq!(key.annotation_value(), text);
    assert_eq!(format!("{key:?}"), format!("PublicKey({text})"));
}

#[test]
fn what_go_reads_is_read_too() {
    let key: PublicKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".parse().unwrap();
    for text in
        ["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9="]
    {
        assert_eq!(text.parse(), Ok(key), "{text:?}");
    }
}

#[test]
fn a_bad_public_key_is_refused_with_its_reason() {
    let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let cases = [
        ("", KeyError::Missing, Reason::WireguardKeyMissing),
        ("AAEC", KeyError::WrongLength { found: 3 }, Reason::WireguardKeyInvalid),
        (
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g",
            KeyError::WrongLength { found: 33 },
            Reason::WireguardKeyInvalid,
        ),
        (
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
            KeyError::NotBase64 { length: 43 },
            Reason::WireguardKeyInvalid,
        ),
        ("no base64!", KeyError::NotBase64 { length: 10 }, Reason::WireguardKeyInvalid),
        (zero, KeyError::Zero, Reason::WireguardKeyZero),
    ];
    for (text, error, reason) in cases {
        assert_eq!(text.parse::<PublicKey>(), Err(error), "{text:?}");
        assert_eq!(error.reason(), reason, "{text:?}");
    }
}
