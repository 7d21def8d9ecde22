#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::entry::markdown_to_matrix(data));
