//! Parses Lucene query-string syntax into a `Query`, the way Elasticsearch's `query_string` reads
//! it: default operator OR, `AND` makes both neighbours required, consecutive bare words are one
//! text. A wrong query is an error that says where.

use thiserror::Error;

use super::{Bound, Query};

/// What a query may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of query text.
    pub length: usize,
    /// Clauses in all.
    pub clauses: usize,
    /// Nesting of groups.
    pub depth: usize,
    /// Wildcards, regular expressions and fuzzy terms in all.
    pub expansions: usize,
    /// Bytes of each of them.
    pub pattern: usize,
    /// Product of the counts that a regular expression repeats by.
    pub repetitions: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            length: 16 * 1024,
            clauses: 1024,
            depth: 32,
            expansions: 32,
            pattern: 256,
            repetitions: 1_000,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseError {
    #[error("{problem} at character {position}")]
    Syntax { problem: String, position: usize },
    #[error("the query is too costly: {0}")]
    TooCostly(String),
}

/// Parses `text`. An empty query is an error, as it is upstream.
pub fn parse(text: &str, limits: Limits) -> Result<Query, ParseError> {
    if text.len() > limits.length {
        return Err(ParseError::TooCostly(format!(
            "more than {} bytes of text",
            limits.length
        )));
    }
    let mut parser = Parser {
        chars: text.chars().collect(),
        at: 0,
        limits,
        clauses: 0,
        expansions: 0,
    };
    parser.skip_space();
    if parser.done() {
        return Err(parser.error("the query is empty"));
    }
    let query = parser.group(None, 0)?;
    if !parser.done() {
        return Err(parser.error("unexpected ')'"));
    }
    Ok(query)
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    limits: Limits,
    clauses: usize,
    expansions: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Occur {
    Must,
    Should,
    MustNot,
}

/// A word with its escapes resolved, and whether it holds unescaped wildcards.
struct Word {
    /// The text without escapes.
    text: String,
    /// The text with escapes kept on `*`, `?` and `\` only: a wildcard pattern.
    pattern: String,
    wild: bool,
}

impl Parser {
    fn done(&self) -> bool {
        self.at >= self.chars.len()
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn peek_at(&self, offset: usize) -> Option<char> {
        self.chars.get(self.at + offset).copied()
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += 1;
        }
        found
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    fn error(&self, problem: impl Into<String>) -> ParseError {
        ParseError::Syntax {
            problem: problem.into(),
            position: self.at + 1,
        }
    }

    /// Consumes `word` when it stands alone (followed by a space, a parenthesis or the end).
    fn eat_operator(&mut self, word: &str) -> bool {
        let len = word.chars().count();
        let matches = word
            .chars()
            .enumerate()
            .all(|(i, c)| self.peek_at(i) == Some(c));
        let symbolic = word.starts_with(['&', '|', '!']);
        let ends = self
            .peek_at(len)
            .is_none_or(|c| is_space(c) || c == '(' || c == ')' || symbolic);
        if matches && ends {
            self.at += len;
            self.skip_space();
            return true;
        }
        false
    }

    fn group(&mut self, field: Option<&str>, depth: usize) -> Result<Query, ParseError> {
        if depth > self.limits.depth {
            return Err(ParseError::TooCostly(format!(
                "groups nested deeper than {}",
                self.limits.depth
            )));
        }
        let mut clauses: Vec<(Occur, Query)> = Vec::new();
        loop {
            self.skip_space();
            if self.done() || self.peek() == Some(')') {
                break;
            }
            let and = self.eat_operator("AND") || self.eat_operator("&&");
            let or = !and && (self.eat_operator("OR") || self.eat_operator("||"));
            if (and || or) && (clauses.is_empty() || self.at_word(&["AND", "OR", "&&", "||"])) {
                return Err(self.error("an operator needs something before it"));
            }
            let mut occur = if self.eat_operator("NOT") || self.eat_operator("!") || self.eat('!') {
                self.skip_space();
                Occur::MustNot
            } else if self.peek() == Some('+') {
                self.at += 1;
                Occur::Must
            } else if self.peek() == Some('-') {
                self.at += 1;
                Occur::MustNot
            } else {
                Occur::Should
            };
            let open = self.done() || self.peek().is_some_and(|c| is_space(c) || c == ')');
            if open || (occur != Occur::Should && self.at_word(&["AND", "OR", "NOT", "&&", "||"])) {
                return Err(self.error("an operator needs something after it"));
            }
            if and {
                if let Some((previous, _)) = clauses.last_mut()
                    && *previous != Occur::MustNot
                {
                    *previous = Occur::Must;
                }
                if occur == Occur::Should {
                    occur = Occur::Must;
                }
            }
            let bare = occur == Occur::Should && !and && !or;
            let query = self.clause(field, depth, bare || or || and)?;
            self.clauses += 1;
            if self.clauses > self.limits.clauses {
                return Err(ParseError::TooCostly(format!(
                    "more than {} clauses",
                    self.limits.clauses
                )));
            }
            clauses.push((occur, query));
        }
        combine(clauses).ok_or_else(|| self.error("expected a term"))
    }

    /// One clause: `field:…`, a group, a phrase, a range, a regular expression or words.
    fn clause(
        &mut self,
        outer: Option<&str>,
        depth: usize,
        may_join: bool,
    ) -> Result<Query, ParseError> {
        let own_field = self.field_name()?;
        let field = own_field.as_deref().or(outer);
        if own_field.as_deref() == Some("_exists_") {
            self.skip_space();
            let word = self.word()?;
            // Lucene has no patterns of field names here.
            return self.boosted(match word.wild {
                true => Query::Nothing,
                false => Query::Exists { field: word.text },
            });
        }
        self.skip_space();
        if let Some(name) = &own_field
            && self.at_word(&["AND", "OR", "NOT", "&&", "||"])
        {
            return Err(self.error(format!(
                "field '{name}' has no value; quote an operator that is meant as a word"
            )));
        }
        let query = match self.peek() {
            Some('(') => {
                let open = self.at;
                self.at += 1;
                let query = self.group(field, depth + 1)?;
                if !self.eat(')') {
                    self.at = open;
                    return Err(self.error("this '(' is never closed"));
                }
                query
            }
            Some('"') => self.phrase(field)?,
            Some('[' | '{') => self.range(field)?,
            Some('/') => self.regex(field)?,
            Some('<' | '>') if field.is_some() => self.comparison(field)?,
            _ => self.words(field, own_field.is_none() && may_join)?,
        };
        self.boosted(query)
    }

    /// Reads `name:` when the next word is followed by a colon.
    fn field_name(&mut self) -> Result<Option<String>, ParseError> {
        let start = self.at;
        if self.peek().is_none_or(|c| !is_word_start(c) && c != '*') {
            return Ok(None);
        }
        let word = self.word()?;
        if self.eat(':') {
            if word.text.is_empty() {
                return Err(self.error("a field name is missing before ':'"));
            }
            if self.done() || self.peek().is_some_and(|c| c == ')') {
                return Err(self.error(format!("field '{}' has no value", word.text)));
            }
            return Ok(Some(word.text));
        }
        self.at = start;
        Ok(None)
    }

    fn word(&mut self) -> Result<Word, ParseError> {
        let mut word = Word {
            text: String::new(),
            pattern: String::new(),
            wild: false,
        };
        while let Some(c) = self.peek() {
            if c == '\\' {
                self.at += 1;
                let Some(escaped) = self.peek() else {
                    return Err(self.error("nothing follows the escape '\\'"));
                };
                word.text.push(escaped);
                if matches!(escaped, '*' | '?' | '\\') {
                    word.pattern.push('\\');
                }
                word.pattern.push(escaped);
                self.at += 1;
                continue;
            }
            let first = word.text.is_empty();
            if is_space(c)
                || ends_word(c)
                || (first && !is_word_start(c) && !matches!(c, '*' | '?'))
            {
                break;
            }
            if matches!(c, '*' | '?') {
                word.wild = true;
            }
            word.text.push(c);
            word.pattern.push(c);
            self.at += 1;
        }
        if word.text.is_empty() {
            return Err(match self.peek() {
                Some(c) => self.error(format!("unexpected '{c}'")),
                None => self.error("expected a term"),
            });
        }
        Ok(word)
    }

    /// A word, and the bare words after it: between two operators they are one text.
    fn words(&mut self, field: Option<&str>, may_join: bool) -> Result<Query, ParseError> {
        let field = field.map(str::to_owned);
        let word = self.word()?;
        if (word.wild || self.peek() == Some('~')) && word.text.len() > self.limits.pattern {
            return Err(ParseError::TooCostly(format!(
                "a wildcard or fuzzy term longer than {} bytes",
                self.limits.pattern
            )));
        }
        if word.wild {
            if word.pattern == "*" {
                return Ok(match field {
                    None => Query::All,
                    Some(field) if field == "*" => Query::All,
                    Some(field) => Query::Exists { field },
                });
            }
            self.expansion()?;
            return Ok(Query::Wildcard {
                field,
                pattern: word.pattern,
            });
        }
        if self.peek() == Some('~') {
            self.at += 1;
            let distance = match self.number()? {
                // Elasticsearch's fuzziness AUTO.
                None => match word.text.chars().count() {
                    0..=2 => 0,
                    3..=5 => 1,
                    _ => 2,
                },
                Some(n) if n < 1.0 && n > 0.0 => 2,
                Some(n) => n.clamp(0.0, 2.0) as u8,
            };
            self.expansion()?;
            return Ok(Query::Fuzzy {
                field,
                text: word.text,
                distance,
            });
        }
        let mut text = word.text;
        if !may_join {
            return Ok(Query::Text { field, text });
        }
        loop {
            let before = self.at;
            self.skip_space();
            let joinable = before != self.at
                && self.peek().is_some_and(|c| is_word_start(c) || c == '\\')
                && !self.at_operator();
            if !joinable {
                self.at = before;
                break;
            }
            let next = self.word()?;
            if next.wild || matches!(self.peek(), Some(':' | '~' | '^')) {
                self.at = before;
                break;
            }
            text.push(' ');
            text.push_str(&next.text);
            self.clauses += 1;
        }
        Ok(Query::Text { field, text })
    }

    fn at_operator(&mut self) -> bool {
        self.at_word(&["AND", "OR", "NOT", "&&", "||", "!"])
    }

    fn at_word(&mut self, words: &[&str]) -> bool {
        let at = self.at;
        let found = words.iter().any(|word| self.eat_operator(word));
        self.at = at;
        found
    }

    fn phrase(&mut self, field: Option<&str>) -> Result<Query, ParseError> {
        let text = self.quoted()?;
        let slop = if self.eat('~') {
            self.number()?.unwrap_or(0.0).clamp(0.0, 100.0) as u32
        } else {
            0
        };
        Ok(Query::Phrase {
            field: field.map(str::to_owned),
            text,
            slop,
        })
    }

    fn quoted(&mut self) -> Result<String, ParseError> {
        let open = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.peek() {
                None => {
                    self.at = open;
                    return Err(self.error("this '\"' is never closed"));
                }
                Some('"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some('\\') => {
                    self.at += 1;
                    if let Some(c) = self.peek() {
                        text.push(c);
                        self.at += 1;
                    }
                }
                Some(c) => {
                    text.push(c);
                    self.at += 1;
                }
            }
        }
    }

    fn range(&mut self, field: Option<&str>) -> Result<Query, ParseError> {
        let open = self.at;
        let lower_included = self.peek() == Some('[');
        self.at += 1;
        let lower = self.range_end()?;
        self.skip_space();
        if !self.eat_operator("TO") {
            return Err(self.error("expected 'TO' in the range"));
        }
        let upper = self.range_end()?;
        self.skip_space();
        let upper_included = match self.peek() {
            Some(']') => true,
            Some('}') => false,
            _ => {
                self.at = open;
                return Err(self.error("this range is never closed"));
            }
        };
        self.at += 1;
        let bound = |text: String, included| match (text.as_str(), included) {
            ("*", _) => Bound::Open,
            (_, true) => Bound::Included(text),
            (_, false) => Bound::Excluded(text),
        };
        Ok(Query::Range {
            field: field.map(str::to_owned),
            lower: bound(lower, lower_included),
            upper: bound(upper, upper_included),
        })
    }

    fn range_end(&mut self) -> Result<String, ParseError> {
        self.skip_space();
        if self.peek() == Some('"') {
            return self.quoted();
        }
        let mut text = String::new();
        while let Some(c) = self.peek() {
            if is_space(c) || matches!(c, ']' | '}') {
                break;
            }
            if c == '\\' {
                self.at += 1;
            }
            if let Some(c) = self.peek() {
                text.push(c);
                self.at += 1;
            }
        }
        if text.is_empty() {
            return Err(self.error("expected a value in the range"));
        }
        Ok(text)
    }

    fn comparison(&mut self, field: Option<&str>) -> Result<Query, ParseError> {
        let greater = self.peek() == Some('>');
        self.at += 1;
        let included = self.eat('=');
        self.skip_space();
        let value = if self.peek() == Some('"') {
            self.quoted()?
        } else {
            let negative = self.eat('-');
            let word = self.word()?.text;
            if negative { format!("-{word}") } else { word }
        };
        let bound = if included {
            Bound::Included(value)
        } else {
            Bound::Excluded(value)
        };
        let (lower, upper) = if greater {
            (bound, Bound::Open)
        } else {
            (Bound::Open, bound)
        };
        Ok(Query::Range {
            field: field.map(str::to_owned),
            lower,
            upper,
        })
    }

    fn regex(&mut self, field: Option<&str>) -> Result<Query, ParseError> {
        let open = self.at;
        self.at += 1;
        let mut pattern = String::new();
        loop {
            match self.peek() {
                None => {
                    self.at = open;
                    return Err(self.error("this '/' starts a regular expression that never ends"));
                }
                Some('/') => break,
                Some('\\') if self.peek_at(1) == Some('/') => {
                    pattern.push('/');
                    self.at += 2;
                }
                Some(c) => {
                    pattern.push(c);
                    self.at += 1;
                }
            }
        }
        self.at += 1;
        self.expansion()?;
        if pattern.len() > self.limits.pattern {
            return Err(ParseError::TooCostly(format!(
                "a regular expression longer than {} bytes",
                self.limits.pattern
            )));
        }
        if repetitions(&pattern) > self.limits.repetitions {
            return Err(ParseError::TooCostly(format!(
                "a regular expression that repeats more than {} times in all",
                self.limits.repetitions
            )));
        }
        Ok(Query::Regex {
            field: field.map(str::to_owned),
            pattern,
        })
    }

    fn boosted(&mut self, query: Query) -> Result<Query, ParseError> {
        if !self.eat('^') {
            return Ok(query);
        }
        match self.number()? {
            Some(boost) => Ok(Query::Boost(Box::new(query), boost)),
            None => Err(self.error("a number must follow '^'")),
        }
    }

    fn number(&mut self) -> Result<Option<f32>, ParseError> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit() || c == '.') {
            self.at += 1;
        }
        if start == self.at {
            return Ok(None);
        }
        let text: String = self.chars[start..self.at].iter().collect();
        match text.parse::<f32>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => {
                self.at = start;
                Err(self.error(format!("'{text}' is not a number")))
            }
        }
    }

    fn expansion(&mut self) -> Result<(), ParseError> {
        self.expansions += 1;
        if self.expansions > self.limits.expansions {
            return Err(ParseError::TooCostly(format!(
                "more than {} wildcards, regular expressions and fuzzy terms",
                self.limits.expansions
            )));
        }
        Ok(())
    }
}

fn combine(clauses: Vec<(Occur, Query)>) -> Option<Query> {
    if clauses.is_empty() {
        return None;
    }
    if clauses.len() == 1 && clauses[0].0 != Occur::MustNot {
        return clauses.into_iter().next().map(|(_, query)| query);
    }
    let (mut must, mut should, mut must_not) = (Vec::new(), Vec::new(), Vec::new());
    for (occur, query) in clauses {
        match occur {
            Occur::Must => must.push(query),
            Occur::Should => should.push(query),
            Occur::MustNot => must_not.push(query),
        }
    }
    // A query of exclusions alone means everything else, as in Elasticsearch.
    if must.is_empty() && should.is_empty() {
        must.push(Query::All);
    }
    Some(Query::Bool {
        must,
        should,
        must_not,
    })
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{3000}')
}

fn ends_word(c: char) -> bool {
    matches!(
        c,
        '(' | ')' | '"' | ':' | '^' | '[' | ']' | '{' | '}' | '~' | '/'
    )
}

fn is_word_start(c: char) -> bool {
    !is_space(c)
        && !matches!(
            c,
            '+' | '-'
                | '!'
                | '('
                | ')'
                | ':'
                | '^'
                | '['
                | ']'
                | '"'
                | '{'
                | '}'
                | '~'
                | '*'
                | '?'
                | '/'
        )
}

/// How often counted repetitions (`{n}`, `{n,m}`) repeat when they are all nested: what an engine may
/// have to unfold.
fn repetitions(pattern: &str) -> u64 {
    let mut product = 1_u64;
    for part in pattern.split('{').skip(1) {
        let counts = part.split('}').next().unwrap_or_default();
        let highest = counts
            .split(',')
            .filter_map(|n| n.trim().parse::<u64>().ok())
            .max();
        product = product.saturating_mul(highest.unwrap_or(1).max(1));
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(field: Option<&str>, text: &str) -> Query {
        Query::Text {
            field: field.map(str::to_owned),
            text: text.to_owned(),
        }
    }

    fn ok(q: &str) -> Query {
        parse(q, Limits::default()).unwrap_or_else(|e| panic!("{q}: {e}"))
    }

    #[test]
    fn words_between_operators_are_one_text() {
        assert_eq!(ok("new york"), text(None, "new york"));
        assert_eq!(
            ok("species:Adelie island"),
            Query::Bool {
                must: vec![],
                should: vec![text(Some("species"), "Adelie"), text(None, "island")],
                must_not: vec![]
            }
        );
    }

    #[test]
    fn and_binds_its_neighbours() {
        assert_eq!(
            ok("a AND b OR c"),
            Query::Bool {
                must: vec![text(None, "a"), text(None, "b")],
                should: vec![text(None, "c")],
                must_not: vec![]
            }
        );
        assert_eq!(
            ok("a AND NOT b"),
            Query::Bool {
                must: vec![text(None, "a")],
                should: vec![],
                must_not: vec![text(None, "b")]
            }
        );
        assert_eq!(ok("+a -b"), ok("a AND NOT b"));
        assert_eq!(
            ok("NOT x"),
            Query::Bool {
                must: vec![Query::All],
                should: vec![],
                must_not: vec![text(None, "x")]
            }
        );
    }

    #[test]
    fn fields_escapes_and_phrases() {
        assert_eq!(
            ok(r"_extra.id:PRJ\:a.txt@1"),
            text(Some("_extra.id"), "PRJ:a.txt@1")
        );
        assert_eq!(
            ok(r#"_extra.id:"PRJ:a.txt@1""#),
            Query::Phrase {
                field: Some("_extra.id".into()),
                text: "PRJ:a.txt@1".into(),
                slop: 0
            }
        );
        assert_eq!(
            ok("_exists_:sex"),
            Query::Exists {
                field: "sex".into()
            }
        );
        assert_eq!(ok("*"), Query::All);
        assert_eq!(ok("*:*"), Query::All);
        assert_eq!(ok("a-b"), text(None, "a-b"));
        assert_eq!(ok("tags:(x y)"), text(Some("tags"), "x y"));
    }

    #[test]
    fn ranges() {
        assert_eq!(
            ok("year:[2007 TO 2009}"),
            Query::Range {
                field: Some("year".into()),
                lower: Bound::Included("2007".into()),
                upper: Bound::Excluded("2009".into())
            }
        );
        assert_eq!(
            ok("mass:>=-3.5"),
            Query::Range {
                field: Some("mass".into()),
                lower: Bound::Included("-3.5".into()),
                upper: Bound::Open
            }
        );
    }

    #[test]
    fn wildcards_keep_only_the_escapes_they_need() {
        assert_eq!(
            ok(r"path:a\:b*"),
            Query::Wildcard {
                field: Some("path".into()),
                pattern: "a:b*".into()
            }
        );
        assert_eq!(
            ok("name:*"),
            Query::Exists {
                field: "name".into()
            }
        );
    }

    #[test]
    fn a_wrong_query_says_where() {
        for (q, position) in [
            ("(", 2),
            ("a)", 2),
            ("(a", 1),
            ("\"a", 1),
            ("a AND", 6),
            ("AND a", 5),
            ("x:[1 TO", 8),
            ("x:", 3),
            ("a\\", 3),
            ("/a", 1),
            ("", 1),
        ] {
            match parse(q, Limits::default()) {
                Err(ParseError::Syntax { position: at, .. }) => assert_eq!(at, position, "{q}"),
                other => panic!("{q}: {other:?}"),
            }
        }
    }

    #[test]
    fn bombs_are_refused() {
        let many = vec!["a OR b"; 2000].join(" OR ");
        let deep = format!("{}a{}", "(".repeat(100), ")".repeat(100));
        let wild = vec!["*a*"; 100].join(" ");
        let long = "a".repeat(1 << 20);
        let pattern = format!("a*{}", "b".repeat(1000));
        let fuzzy = format!("{}~", "b".repeat(1000));
        for bomb in [many, deep, wild, long, pattern, fuzzy] {
            assert!(matches!(
                parse(&bomb, Limits::default()),
                Err(ParseError::TooCostly(_))
            ));
        }
    }

    proptest! {
        #[test]
        fn never_panics(q in r#"[a-z0-9 ()"\\\[\]{}+:*?~^/!&|<>=.-]{0,60}"#) {
            let _ = parse(&q, Limits::default());
        }

        #[test]
        fn an_escaped_text_is_that_text(raw in "[ -~]{1,20}") {
            let q = format!("f:{}", super::super::escape(&raw));
            prop_assert_eq!(parse(&q, Limits::default()), Ok(text(Some("f"), &raw)));
        }
    }
}
