//! Files that come in parts: how many, and how large (AWS documentation, "Amazon S3 multipart upload
//! limits"). Pure.

const MIB: u64 = 1024 * 1024;
/// Files of this size and above come in parts, in bytes; S3 takes up to 5 GiB in one piece.
pub const MULTIPART_FROM: u64 = 100 * MIB;
/// The largest file that S3 takes, in bytes.
pub const FILE_MAX: u64 = 5 * MIB * MIB;
const PART_MIN: u64 = 64 * MIB;
const PARTS_MAX: u64 = 10_000;
/// Parts of all files of one upload at the most: each is a URL in the answer.
pub const UPLOAD_PARTS_MAX: u64 = 20_000;

/// The parts of a file: all of `size` bytes but the last, which has the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    pub size: u64,
    pub count: u64,
}

impl Parts {
    /// Of a file of so many bytes; `None` where one request does.
    pub fn of(bytes: u64) -> Option<Self> {
        if bytes < MULTIPART_FROM {
            return None;
        }
        let size = PART_MIN.max(bytes.div_ceil(PARTS_MAX).next_multiple_of(MIB));
        Some(Self {
            size,
            count: bytes.div_ceil(size),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_the_limits_of_s3() {
        assert_eq!(Parts::of(0), None);
        assert_eq!(Parts::of(MULTIPART_FROM - 1), None);
        let some = [
            MULTIPART_FROM,
            MULTIPART_FROM + 1,
            5 * 1024 * MIB,
            640_000 * MIB,
            640_000 * MIB + 1,
            FILE_MAX - 1,
            FILE_MAX,
        ];
        for bytes in some {
            let parts = Parts::of(bytes).unwrap();
            assert!((1..=PARTS_MAX).contains(&parts.count), "{bytes}: {parts:?}");
            assert!(parts.size >= 5 * MIB && parts.size <= 5 * 1024 * MIB);
            let last = bytes - (parts.count - 1) * parts.size;
            assert!((1..=parts.size).contains(&last), "{bytes}: {parts:?}");
        }
    }
}
