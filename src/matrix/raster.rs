//! Which kind of picture some bytes are, and how large it is: told by the bytes themselves, never by what is said of them.

/// Most pixels of a picture that is shown: more is a bomb for whoever unpacks it.
const MOST_PIXELS: u64 = 100_000_000;

/// A picture of a kind that every client shows and that can't carry a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raster {
    /// Its media type.
    pub kind: &'static str,
    /// In pixels, never 0.
    pub width: u32,
    /// In pixels, never 0.
    pub height: u32,
}

/// Reads the header of a PNG, JPEG, GIF or WebP; `None` for everything else, and for what is too large to be shown.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Option<Raster> {
    let (kind, (width, height)) = if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        ("image/png", png(bytes)?)
    } else if bytes.starts_with(b"\xff\xd8\xff") {
        ("image/jpeg", jpeg(bytes)?)
    } else if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        ("image/gif", (u32::from(le16(bytes, 6)?), u32::from(le16(bytes, 8)?)))
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        ("image/webp", webp(bytes)?)
    } else {
        return None;
    };
    let pixels = u64::from(width) * u64::from(height);
    (1..=MOST_PIXELS).contains(&pixels).then_some(Raster { kind, width, height })
}

fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// <https://www.w3.org/TR/png-3/#11IHDR>
fn png(bytes: &[u8]) -> Option<(u32, u32)> {
    let be32 = |at| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    (bytes.get(12..16)? == b"IHDR").then_some((be32(16)?, be32(20)?))
}

/// The first frame header; what stands before it is skipped by its length. <https://www.w3.org/Graphics/JPEG/itu-t81.pdf>, B.2.2
fn jpeg(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    loop {
        while bytes.get(at..at + 2)? == b"\xff\xff" {
            at += 1;
        }
        let [0xff, marker] = *bytes.get(at..at + 2)? else { return None };
        match marker {
            // SOF0 to SOF15, but for tables and reserved ones.
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Some((u32::from(be16(bytes, at + 7)?), u32::from(be16(bytes, at + 5)?)));
            }
            0x01 | 0xd0..=0xd7 => at += 2,
            // The end, or the picture itself, without a frame before.
            0xd9 | 0xda => return None,
            _ => at += 2 + usize::from(be16(bytes, at + 2)?.max(2)),
        }
    }
}

/// <https://developers.google.com/speed/webp/docs/riff_container>
fn webp(bytes: &[u8]) -> Option<(u32, u32)> {
    match bytes.get(12..16)? {
        b"VP8 " if bytes.get(23..26)? == b"\x9d\x01\x2a" => {
            let side = |at| Some(u32::from(le16(bytes, at)? & 0x3fff));
            Some((side(26)?, side(28)?))
        }
        b"VP8L" if *bytes.get(20)? == 0x2f => {
            let bits = u32::from_le_bytes(bytes.get(21..25)?.try_into().ok()?);
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        b"VP8X" => {
            let side = |at: usize| {
                let [a, b, c] = *bytes.get(at..at + 3)? else { return None };
                Some(u32::from_le_bytes([a, b, c, 0]) + 1)
            };
            Some((side(24)?, side(27)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png_of(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        bytes.extend(width.to_be_bytes());
        bytes.extend(height.to_be_bytes());
        bytes
    }

    fn webp_of(chunk: &[u8], rest: &[u8]) -> Vec<u8> {
        [b"RIFF\0\0\0\0WEBP", chunk, b"\0\0\0\0", rest].concat()
    }

    #[test]
    fn pictures_are_known_by_their_bytes() {
        type Expected = Option<(&'static str, u32, u32)>;
        let jpeg = b"\xff\xd8\xff\xe0\0\x04ab\xff\xff\xdb\0\x03x\xff\xc2\0\x11\x08\0\x20\0\x40";
        //  row, bytes, kind and size
        let rows: [(&str, Vec<u8>, Expected); 14] = [
            ("png", png_of(640, 480), Some(("image/png", 640, 480))),
            ("jpeg, progressive", jpeg.to_vec(), Some(("image/jpeg", 64, 32))),
            ("gif", b"GIF89a\x02\0\x03\0".to_vec(), Some(("image/gif", 2, 3))),
            (
                "webp, lossy",
                webp_of(b"VP8 ", b"\0\0\0\x9d\x01\x2a\x10\x40\x20\0"),
                Some(("image/webp", 16, 32)),
            ),
            ("webp, lossless", webp_of(b"VP8L", b"\x2f\x07\xc0\x01\0"), Some(("image/webp", 8, 8))),
            (
                "webp, extended",
                webp_of(b"VP8X", b"\0\0\0\0\xff\x01\0\x0f\0\0"),
                Some(("image/webp", 512, 16)),
            ),
            ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec(), None),
            ("html that says it is a gif", b"<html>GIF89a".to_vec(), None),
            ("png without a size", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0".to_vec(), None),
            ("png of no size", png_of(0, 5), None),
            ("a bomb", png_of(100_000, 100_000), None),
            ("jpeg that ends", b"\xff\xd8\xff\xe0\0\xff".to_vec(), None),
            ("jpeg of nothing but padding", [&b"\xff\xd8"[..], &[0xff; 100]].concat(), None),
            ("nothing", Vec::new(), None),
        ];
        for (name, bytes, expected) in rows {
            let found = sniff(&bytes).map(|raster| (raster.kind, raster.width, raster.height));
            assert_eq!(found, expected, "row: {name}");
        }
    }
}
