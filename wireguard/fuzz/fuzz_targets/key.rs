#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    wireguard::fuzzing::key(input);
});
