//! The query of a request: known parameters, each at most once, each of its type.
//!
//! Owns the parsing of parameters and the text of its errors. An unknown parameter is refused, never ignored.

use std::time::Duration;

use actix_web::{HttpRequest, web};
use replog_core::{Concern, IdempotencyKey, types::ClusterId};

use crate::{
    append_body::{concern_count, key_rule, milliseconds, quoted},
    problem::Problem,
};

/// The parameters of one request.
#[derive(Debug)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Takes the query of `request`, whose parameters must be among `known`.
    pub(crate) fn of(request: &HttpRequest, known: &[&str]) -> Result<Query, Problem> {
        Query::parse(request.query_string(), known)
    }

    fn parse(text: &str, known: &[&str]) -> Result<Query, Problem> {
        let pairs = web::Query::<Vec<(String, String)>>::from_query(text)
            .map_err(|error| Problem::malformed(format!("the query cannot be read: {error}")))?
            .into_inner();
        for (at, (name, _)) in pairs.iter().enumerate() {
            if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                let text = format!("the parameter {} is given twice", quoted(name));
                return Err(Problem::malformed(text));
            }
            if known.contains(&name.as_str()) {
                continue;
            }
            let text = format!("the parameter {} is unknown here", quoted(name));
            return Err(Problem::malformed(text));
        }
        Ok(Query(pairs))
    }

    /// Returns the whole number given as `name`.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        match self.text(name) {
            Some(text) => number(text, &format!("the parameter {name}")).map(Some),
            None => Ok(None),
        }
    }

    /// Returns the idempotency key given as `idempotency_key`, even one that begins or ends with spaces, which no
    /// header can carry.
    pub(crate) fn idempotency_key(&self) -> Result<Option<IdempotencyKey>, Problem> {
        let key = self.text("idempotency_key").map(|text| {
            let what = "the parameter idempotency_key";
            IdempotencyKey::new(text).map_err(|_| Problem::malformed(key_rule(what, text)))
        });
        key.transpose()
    }

    /// Returns the identity of a cluster given as `name`.
    pub(crate) fn cluster_id(&self, name: &str) -> Result<Option<ClusterId>, Problem> {
        let text = self.text(name);
        text.map(|text| cluster_id(text, &format!("the parameter {name}")))
            .transpose()
    }

    /// Returns the concern given as `concern`. An integer beyond any cluster's number of nodes is kept as one: the
    /// library refuses it with the number of nodes.
    pub(crate) fn concern(&self) -> Result<Option<Concern>, Problem> {
        let Some(text) = self.text("concern") else {
            return Ok(None);
        };
        let concern = match text {
            "majority" => Some(Concern::Majority),
            "all" => Some(Concern::All),
            text => concern_count(text),
        };
        concern.map(Some).ok_or_else(|| {
            let text = quoted(text);
            Problem::malformed(format!(
                "the parameter concern must be a number of nodes, majority or all, not {text}"
            ))
        })
    }

    /// Returns the time to wait given as `timeout_ms`.
    pub(crate) fn timeout(&self) -> Result<Option<Duration>, Problem> {
        let timeout = self.text("timeout_ms");
        let timeout = timeout.map(|text| milliseconds(text, "the parameter timeout_ms"));
        timeout.transpose().map_err(Problem::malformed)
    }

    /// Returns the meaning of the word given as `name`, which must be one of `words`.
    pub(crate) fn word<T: Copy>(
        &self,
        name: &str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, meant)| Some(*meant)).ok_or_else(|| {
            let (text, words) = (quoted(text), words.iter().map(|(word, _)| *word));
            let words = words.collect::<Vec<_>>().join(" or ");
            Problem::malformed(format!("the parameter {name} must be {words}, not {text}"))
        })
    }

    fn text(&self, name: &str) -> Option<&str> {
        let pair = self.0.iter().find(|(own, _)| own == name);
        pair.map(|(_, text)| text.as_str())
    }

    /// Returns the whole number given as `name`, which must not be 0.
    pub(crate) fn positive(&self, name: &str) -> Result<Option<u64>, Problem> {
        match self.number(name)? {
            Some(0) => Err(Problem::malformed(format!(
                "the parameter {name} must be at least 1"
            ))),
            value => Ok(value),
        }
    }
}

/// Parses the identity of a cluster.
pub(crate) fn cluster_id(text: &str, what: &str) -> Result<ClusterId, Problem> {
    ClusterId::try_from(text.to_owned()).map_err(|_| {
        let text = quoted(text);
        Problem::malformed(format!(
            "{what} must be the identity of a cluster, 32 hexadecimal digits, not {text}"
        ))
    })
}

/// Parses a whole number: digits and nothing else.
pub(crate) fn number(text: &str, what: &str) -> Result<u64, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(value) if digits => Ok(value),
        _ => {
            let text = quoted(text);
            Err(Problem::malformed(format!(
                "{what} must be a 64-bit whole number, not {text}"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_parsed_and_everything_else_is_refused() {
        let good = [
            ("", None),
            ("limit=7", Some(7)),
            ("l%69mit=%37", Some(7)),
            ("limit=18446744073709551615&from=3", Some(u64::MAX)),
        ];
        for (text, expected) in good {
            let query = Query::parse(text, &["limit", "from"]).expect(text);
            assert_eq!(query.positive("limit").expect(text), expected, "{text}");
        }
        let bad = [
            ("limit=0", "at least 1"),
            ("limit=", "whole number"),
            ("limit=-1", "whole number"),
            ("limit=%2B1", "whole number"),
            ("limit=1.5", "whole number"),
            ("limit=18446744073709551616", "whole number"),
            ("limit=x", "whole number"),
            ("limit=1&limit=1", "given twice"),
            ("page=2", "unknown here"),
            ("follow=true", "unknown here"),
        ];
        for (text, expected) in bad {
            let result = Query::parse(text, &["limit"]).and_then(|query| query.positive("limit"));
            let problem = result.expect_err(text);
            assert!(problem.to_string().contains(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn a_word_must_be_one_of_the_known_ones() {
        let words = [("yes", 1), ("no", 0)];
        let of = |text| Query::parse(text, &["a"]).expect(text).word("a", &words);
        let table = [("a=yes", Some(1)), ("a=no", Some(0)), ("", None)];
        for (text, expected) in table {
            assert_eq!(of(text).expect(text), expected);
        }
        for text in ["a=", "a=Yes", "a=yes%20"] {
            let problem = of(text).expect_err(text).to_string();
            assert!(problem.contains("must be yes or no"), "{problem}");
        }
    }
}
