//! Sequences: how project identifiers are numbered (CONTRACT sections 1.6 and 8.6).
//!
//! Which number comes next and what it is called; who takes it is in `versions::provision`.

use thiserror::Error;

use crate::config::{PoolConfig, PoolKind, SequenceConfig};
use crate::id::{Project, excerpt};

/// The last number where no pool says so.
pub const MAX_NUMBER: u64 = 999_999_999;
/// Digits of a number where no format says so.
const DIGITS: usize = 9;
/// Most digits of any number: more would not fit 64 bits.
const MAX_DIGITS: usize = 18;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SequenceError {
    #[error(
        "format '{format}' of sequence '{prefix}' {problem}; write it like '{{prefix}}{{seq_id:09}}'"
    )]
    Format {
        prefix: String,
        format: String,
        problem: &'static str,
    },
    #[error("pool {from} to {to} of sequence '{prefix}' {problem}")]
    Pool {
        prefix: String,
        from: u64,
        to: u64,
        problem: &'static str,
    },
    #[error("two sequences have the prefix '{0}'")]
    Twice(String),
    #[error("the sequences '{0}' and '{1}' are both the default")]
    Defaults(String, String),
    #[error("No active provisioned pool holds a free number of sequence '{0}'")]
    Exhausted(String),
}

/// A source of project identifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    pub prefix: String,
    pub default: bool,
    pub test: bool,
    /// Ranges that numbers are taken from, in ascending order.
    pub provisioned: Vec<PoolConfig>,
    /// Ranges that none is taken from, in ascending order.
    pub restricted: Vec<PoolConfig>,
    before: String,
    after: String,
    digits: usize,
}

impl Sequence {
    pub fn new(config: &SequenceConfig) -> Result<Self, SequenceError> {
        let (before, after, digits) = template(config)?;
        for pool in &config.pools {
            let problem = if pool.from > pool.to {
                "begins after its end"
            } else if pool.from == 0 {
                "must begin at 1 or later"
            } else if pool.to >= 10_u64.pow(MAX_DIGITS as u32) {
                "ends beyond what fits 18 digits"
            } else {
                continue;
            };
            return Err(SequenceError::Pool {
                prefix: config.prefix.clone(),
                from: pool.from,
                to: pool.to,
                problem,
            });
        }
        let of = |kind: PoolKind| {
            let mut pools: Vec<PoolConfig> = config.pools.clone();
            pools.retain(|pool| pool.kind == kind);
            pools.sort_by_key(|pool| (pool.from, pool.to));
            pools
        };
        let mut provisioned = of(PoolKind::Provisioned);
        if provisioned.is_empty() {
            provisioned.push(PoolConfig {
                kind: PoolKind::Provisioned,
                from: 1,
                to: MAX_NUMBER,
            });
        }
        Ok(Self {
            prefix: config.prefix.clone(),
            default: config.default,
            test: config.test,
            provisioned,
            restricted: of(PoolKind::Restricted),
            before,
            after,
            digits,
        })
    }

    /// The sequences of an instance; prefixes are unique and at most one is the default.
    pub fn all(configs: &[SequenceConfig]) -> Result<Vec<Self>, SequenceError> {
        let mut all: Vec<Self> = Vec::with_capacity(configs.len());
        for config in configs {
            if all.iter().any(|own| own.prefix == config.prefix) {
                return Err(SequenceError::Twice(config.prefix.clone()));
            }
            if config.default
                && let Some(other) = all.iter().find(|own| own.default)
            {
                let (one, two) = (other.prefix.clone(), config.prefix.clone());
                return Err(SequenceError::Defaults(one, two));
            }
            all.push(Self::new(config)?);
        }
        Ok(all)
    }

    /// The first number from `candidate` on that may be given out.
    pub fn allowed(&self, candidate: u64) -> Result<u64, SequenceError> {
        let mut number = candidate;
        loop {
            let from = self
                .provisioned
                .iter()
                .filter(|pool| pool.to >= number)
                .map(|pool| pool.from.max(number))
                .min();
            let Some(from) = from else {
                return Err(SequenceError::Exhausted(self.prefix.clone()));
            };
            match self.restricted.iter().find(|pool| pool.holds(from)) {
                Some(pool) => number = pool.to + 1,
                None => return Ok(from),
            }
        }
    }

    /// The identifier of the project with this number.
    pub fn project(&self, number: u64) -> Option<Project> {
        let Self {
            before,
            after,
            digits,
            ..
        } = self;
        Project::new(format!("{before}{number:0digits$}{after}")).ok()
    }

    /// The number of a project of this sequence. A name that begins alike and goes on otherwise is
    /// of another: `DS` and `DSv2` live side by side.
    pub fn number(&self, project: &str) -> Option<u64> {
        let digits = project
            .strip_prefix(&*self.before)?
            .strip_suffix(&*self.after)?;
        if digits.is_empty() || digits.len() > MAX_DIGITS {
            return None;
        }
        let number = digits.bytes().all(|digit| digit.is_ascii_digit());
        let number: u64 = number.then(|| digits.parse().ok())??;
        // `PRJ1` is not what number 1 is called.
        let name = self.project(number)?;
        (name.as_str() == project).then_some(number)
    }

    /// What the names of all its projects begin with.
    pub fn before(&self) -> &str {
        &self.before
    }

    /// The highest number that was given out, as the names of projects tell. One that lies where
    /// none is given out was made by hand and does not count.
    pub fn highest<'a>(&self, projects: impl Iterator<Item = &'a str>) -> Option<u64> {
        projects
            .filter_map(|name| self.number(name))
            .filter(|number| self.allowed(*number) == Ok(*number))
            .max()
    }
}

/// The text before the number, the text after it, and the number's digits.
fn template(config: &SequenceConfig) -> Result<(String, String, usize), SequenceError> {
    let Some(format) = &config.format else {
        return Ok((config.prefix.clone(), String::new(), DIGITS));
    };
    let refuse = |problem| {
        Err(SequenceError::Format {
            prefix: config.prefix.clone(),
            format: excerpt(format),
            problem,
        })
    };
    let mut text = String::new();
    let mut number: Option<(String, usize)> = None;
    let mut rest = format.as_str();
    while let Some((plain, more)) = rest.split_once('{') {
        let Some((name, behind)) = more.split_once('}') else {
            return refuse("has a '{' that is not closed");
        };
        text.push_str(plain);
        rest = behind;
        match name.split_once(':').unwrap_or((name, "")) {
            ("prefix" | "project_prefix", "") => text.push_str(&config.prefix),
            ("seq_id", _) if number.is_some() => return refuse("must name seq_id once"),
            ("seq_id", width) => {
                let width = width.strip_suffix('d').unwrap_or(width);
                let digits = match width.strip_prefix('0').unwrap_or(width) {
                    "" if width.is_empty() => 1,
                    digits => digits.parse().unwrap_or(0),
                };
                if !(1..=MAX_DIGITS).contains(&digits) {
                    return refuse("names a width that is none");
                }
                number = Some((std::mem::take(&mut text), digits));
            }
            _ => return refuse("names what is neither prefix nor seq_id"),
        }
    }
    text.push_str(rest);
    let (Some((before, digits)), after) = (number, text) else {
        return refuse("must name seq_id once");
    };
    if Project::new(format!("{before}{:0digits$}{after}", 1)).is_err() || before.is_empty() {
        return refuse("makes no identifier of a project");
    }
    Ok((before, after, digits))
}

impl PoolConfig {
    pub fn holds(&self, number: u64) -> bool {
        (self.from..=self.to).contains(&number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequence(prefix: &str, format: Option<&str>, pools: &[(PoolKind, u64, u64)]) -> Sequence {
        Sequence::new(&config(prefix, format, pools)).unwrap()
    }

    fn config(
        prefix: &str,
        format: Option<&str>,
        pools: &[(PoolKind, u64, u64)],
    ) -> SequenceConfig {
        SequenceConfig {
            prefix: prefix.to_owned(),
            format: format.map(str::to_owned),
            default: false,
            test: false,
            pools: pools
                .iter()
                .map(|(kind, from, to)| PoolConfig {
                    kind: *kind,
                    from: *from,
                    to: *to,
                })
                .collect(),
        }
    }

    #[test]
    fn numbers_have_names_and_names_have_numbers() {
        let plain = sequence("DS", None, &[]);
        assert_eq!(plain.project(1).unwrap().as_str(), "DS000000001");
        assert_eq!(plain.number("DS000000001"), Some(1));
        for other in ["DSv2000000001", "DS1", "DS", "DS00000000a", "ds000000001"] {
            assert_eq!(plain.number(other), None, "{other}");
        }
        let own = sequence("PRJ", Some("{project_prefix}-{seq_id:04d}.x"), &[]);
        assert_eq!(own.project(12).unwrap().as_str(), "PRJ-0012.x");
        assert_eq!(own.number("PRJ-0012.x"), Some(12));
        assert_eq!(own.number("PRJ-12345.x"), Some(12_345));
        let bare = sequence("P", Some("{prefix}{seq_id}"), &[]);
        assert_eq!(bare.project(7).unwrap().as_str(), "P7");
    }

    #[test]
    fn formats_that_cannot_be_are_refused() {
        for format in [
            "",
            "{prefix}",
            "{seq_id}{seq_id}",
            "{prefix}{seq_id",
            "{prefix}{seq_id:x}",
            "{prefix}{seq_id:00}",
            "{prefix}{seq_id:019}",
            "{prefix}{other}",
            "{prefix}/{seq_id}",
            "{seq_id}",
        ] {
            let refused = Sequence::new(&config("P", Some(format), &[]));
            assert!(
                matches!(refused, Err(SequenceError::Format { .. })),
                "{format}"
            );
        }
    }

    #[test]
    fn numbers_come_from_pools_and_never_from_restricted_ones() {
        use PoolKind::{Provisioned, Restricted};
        let own = sequence(
            "P",
            None,
            &[
                (Restricted, 12, 14),
                (Provisioned, 10, 20),
                (Restricted, 15, 15),
                (Provisioned, 30, 31),
            ],
        );
        let all: Vec<u64> = (1..=31)
            .filter_map(|number| own.allowed(number).ok())
            .collect();
        assert_eq!(&all[..12], [[10; 10].as_slice(), &[11, 16]].concat());
        assert_eq!(own.allowed(21), Ok(30));
        assert_eq!(
            own.allowed(32),
            Err(SequenceError::Exhausted("P".to_owned()))
        );
        // 25 and 13 were made by hand.
        let names = ["P000000025", "P000000013", "P000000011", "Q000000016"];
        assert_eq!(own.highest(names.into_iter()), Some(11));
        assert_eq!(own.highest(["x"].into_iter()), None);
    }

    #[test]
    fn prefixes_are_unique_and_one_is_the_default() {
        let twice = [config("P", None, &[]), config("P", None, &[])];
        assert_eq!(
            Sequence::all(&twice),
            Err(SequenceError::Twice("P".to_owned()))
        );
        let mut defaults = [config("P", None, &[]), config("Q", None, &[])];
        defaults.iter_mut().for_each(|own| own.default = true);
        assert!(matches!(
            Sequence::all(&defaults),
            Err(SequenceError::Defaults(..))
        ));
    }

    proptest! {
        #[test]
        fn what_is_allowed_lies_in_a_pool_and_is_the_first(
            pools in prop::collection::vec((any::<bool>(), 1_u64..60, 0_u64..20), 0..6),
            candidate in 0_u64..80,
        ) {
            let pools: Vec<_> = pools
                .into_iter()
                .map(|(provisioned, from, more)| match provisioned {
                    true => (PoolKind::Provisioned, from, from + more),
                    false => (PoolKind::Restricted, from, from + more),
                })
                .collect();
            let own = sequence("P", None, &pools);
            let free = |number: u64| {
                own.provisioned.iter().any(|pool| pool.holds(number))
                    && !own.restricted.iter().any(|pool| pool.holds(number))
            };
            match own.allowed(candidate) {
                Ok(number) => {
                    prop_assert!(number >= candidate && free(number));
                    prop_assert!(!(candidate..number).any(free));
                }
                Err(_) => prop_assert!(!(candidate..200).any(free)),
            }
        }
    }
}
