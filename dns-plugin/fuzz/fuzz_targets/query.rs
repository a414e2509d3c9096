#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    dns_plugin::fuzzing::query(input);
});
