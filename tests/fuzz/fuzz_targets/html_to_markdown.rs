#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::entry::html_to_markdown(data));
