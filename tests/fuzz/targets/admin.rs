#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| exeat::fuzz::run("admin", data));
