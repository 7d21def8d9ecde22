//! Parts of files: `Range` as asked, `Content-Range` as answered. Pure.
//!
//! <https://www.rfc-editor.org/rfc/rfc9110.html#name-range-requests>

/// One range as a browser asks for it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// From this byte to that one, or to the end.
    From(u64, Option<u64>),
    /// So many at the end.
    Last(u64),
}

/// A part of a file: from `first` to `last`, both in it, of `total` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) total: u64,
}

impl Wanted {
    /// Reads a `Range`. What is none, or several, is `None`: it may be ignored, and then the whole is answered.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (first, last) = header.strip_prefix("bytes=")?.trim().split_once('-')?;
        match (first, last) {
            ("", last) => number(last).map(Self::Last),
            (first, "") => Some(Self::From(number(first)?, None)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From(first, Some(last)))
            }
        }
    }

    /// The header again, in one spelling.
    pub(super) fn header(self) -> String {
        match self {
            Self::From(first, Some(last)) => format!("bytes={first}-{last}"),
            Self::From(first, None) => format!("bytes={first}-"),
            Self::Last(count) => format!("bytes=-{count}"),
        }
    }

    /// The part of a file of `total` bytes; `None` when there is no byte of it.
    pub(super) fn of(self, total: u64) -> Option<Part> {
        let end = total.checked_sub(1)?;
        let (first, last) = match self {
            Self::From(first, last) => (first, last.unwrap_or(end).min(end)),
            Self::Last(0) => return None,
            Self::Last(count) => (total.saturating_sub(count), end),
        };
        (first <= last).then_some(Part { first, last, total })
    }
}

impl Part {
    /// Reads the `Content-Range` of a part whose whole is known and sound.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (range, total) = header.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let part = Self { first: number(first)?, last: number(last)?, total: number(total)? };
        (part.first <= part.last && part.last < part.total).then_some(part)
    }

    pub(super) fn header(self) -> String {
        format!("bytes {}-{}/{}", self.first, self.last, self.total)
    }

    pub(super) fn length(self) -> u64 {
        self.last - self.first + 1
    }
}

/// A number in digits alone: `+1` and blanks are none.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_the_bytes_that_are_there() {
        // What is asked of a file of 10 bytes, and what it gets: nothing to be had, or first and last.
        let rows = [
            ("bytes=0-3", Some(Some((0, 3)))),
            ("bytes=4-", Some(Some((4, 9)))),
            ("bytes=-3", Some(Some((7, 9)))),
            ("bytes=-30", Some(Some((0, 9)))),
            ("bytes=9-9", Some(Some((9, 9)))),
            ("bytes=5-99", Some(Some((5, 9)))),
            ("bytes=10-", Some(None)),
            ("bytes=10-20", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=3-2", None),
            ("bytes=0-1,4-5", None),
            ("bytes=-", None),
            ("bytes=", None),
            ("bytes=a-b", None),
            ("bytes=+1-2", None),
            ("bytes=0-99999999999999999999999", None),
            ("lines=0-3", None),
            ("", None),
        ];
        for (header, expected) in rows {
            let wanted = Wanted::parse(header);
            let part = wanted.map(|w| w.of(10).map(|part| (part.first, part.last)));
            assert_eq!(part, expected, "row: {header:?}");
            if let Some(wanted) = wanted {
                assert_eq!(Wanted::parse(&wanted.header()), Some(wanted), "row: {header:?}");
                assert_eq!(wanted.of(0), None, "an empty file has no parts: {header:?}");
            }
        }
    }

    #[test]
    fn a_part_that_makes_no_sense_is_none() {
        let good = Part { first: 2, last: 5, total: 10 };
        assert_eq!((good.header().as_str(), good.length()), ("bytes 2-5/10", 4));
        assert_eq!(Part::parse("bytes 2-5/10"), Some(good));
        for bad in ["bytes 5-2/10", "bytes 2-10/10", "bytes 2-5/*", "bytes */10", "2-5/10", ""] {
            assert_eq!(Part::parse(bad), None, "{bad}");
        }
    }
}
