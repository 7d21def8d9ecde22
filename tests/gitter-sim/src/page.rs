//! The page for watching rooms and writing as anyone, and stand-ins for avatars.

use crate::http::Reply;

/// The page at `/`.
pub(crate) fn page() -> Reply {
    Reply::html(200, include_str!("page/page.html"))
}

/// A plain HTML document in the style of the page.
pub(crate) fn document(title: &str, body: &str) -> String {
    let title = crate::markdown::escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{}</style></head><body><main class=\"card\">{body}</main></body></html>\n",
        include_str!("page/style.css")
    )
}

/// A small PNG of one colour that follows from the path.
pub(crate) fn avatar(path: &str) -> Reply {
    const SIDE: u32 = 16;
    let hash = path.bytes().fold(5381_u32, |h, b| h.wrapping_mul(33) ^ u32::from(b));
    let colour = [hash, hash >> 8, hash >> 16].map(|c| 64 + (c & 0x7f).to_le_bytes()[0]);
    // Each row begins with a filter byte.
    let row: Vec<u8> = std::iter::once(0).chain((0..SIDE).flat_map(|_| colour)).collect();
    let pixels = row.repeat(16);
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let side = SIDE.to_be_bytes();
    chunk(&mut png, *b"IHDR", &[&side[..], &side, &[8, 2, 0, 0, 0]].concat());
    chunk(&mut png, *b"IDAT", &stored_zlib(&pixels));
    chunk(&mut png, *b"IEND", &[]);
    Reply::new(200, "image/png", png)
}

fn chunk(png: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    let body = [&kind[..], data].concat();
    png.extend(u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
    png.extend(&body);
    png.extend(crc32(&body).to_be_bytes());
}

/// One stored deflate block: enough for a picture this small.
fn stored_zlib(data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap_or(0);
    let mut out = vec![0x78, 0x01, 0x01];
    out.extend(length.to_le_bytes());
    out.extend((!length).to_le_bytes());
    out.extend(data);
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in data {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    out.extend(((b << 16) | a).to_be_bytes());
    out
}

fn crc32(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_the_known_ones() {
        assert_eq!(crc32(b"IEND"), 0xae42_6082);
        assert!(stored_zlib(b"Wikipedia").ends_with(&0x11e6_0398_u32.to_be_bytes()));
    }
}
