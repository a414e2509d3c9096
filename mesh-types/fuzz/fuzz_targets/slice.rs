#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    mesh_types::fuzzing::slice(input);
});
