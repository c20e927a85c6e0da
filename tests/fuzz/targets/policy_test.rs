#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| exeat::fuzz::run("policy_test", data));
