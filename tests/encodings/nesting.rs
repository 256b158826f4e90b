//! Everything that is appended can be read again, however it is nested: an append of a value that
//! could not be read is refused, and no value exhausts the stack.

use std::collections::BTreeMap;

use partd::{Dict, Error, Msgpack, Pickle};
use serde::{Deserialize, Serialize};

/// The maximum nesting depth of a frame, including the frame's own list.
const MAX_DEPTH: usize = 128;

/// A type that can be nested to any depth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Lists(Vec<Lists>);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Node {
    next: Option<Box<Node>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Maps(BTreeMap<String, Maps>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Expression {
    Number(i64),
    Unit,
    Not(Box<Expression>),
    Sum(Box<Expression>, Box<Expression>),
    Named { name: String, of: Box<Expression> },
}

fn lists(depth: usize) -> Lists {
    (1..depth).fold(Lists::default(), |inner, _| Lists(vec![inner]))
}

fn nodes(depth: usize) -> Node {
    (1..depth).fold(Node::default(), |inner, _| Node { next: Some(Box::new(inner)) })
}

fn maps(depth: usize) -> Maps {
    (1..depth).fold(Maps::default(), |inner, _| Maps([("k".to_owned(), inner)].into()))
}

fn expressions(depth: usize) -> Expression {
    (1..depth).fold(Expression::Number(7), |inner, i| match i % 3 {
        0 => Expression::Not(Box::new(inner)),
        1 => Expression::Sum(Box::new(inner), Box::new(Expression::Unit)),
        _ => Expression::Named { name: format!("{i}"), of: Box::new(inner) },
    })
}

macro_rules! check {
    ($layer:ident, $make:ident, $levels:expr) => {{
        let mut deepest = 0;
        for depth in (1..2 * MAX_DEPTH).chain([2000]) {
            let p = $layer::new(Dict::new());
            p.append([("k", vec![$make(1)])]).unwrap();
            match p.append([("k", vec![$make(1), $make(depth)])]) {
                Ok(()) => {
                    let read = p.get("k").unwrap_or_else(|error| panic!("{depth}: {error}"));
                    assert_eq!(read, [$make(1), $make(1), $make(depth)]);
                    deepest = deepest.max(depth);
                }
                Err(error) => {
                    assert!(matches!(error, Error::Encode { .. }), "{error}");
                    assert!(error.to_string().contains("nested more than 128 deep"), "{error}");
                    assert_eq!(p.get("k").unwrap(), [$make(1)], "nothing of it is written");
                }
            }
        }
        assert!(deepest * $levels >= MAX_DEPTH - 4, "{} levels at most", deepest);
        assert!(deepest < MAX_DEPTH);
    }};
}

#[test]
fn an_append_of_a_value_nested_too_deep_to_read_is_refused() {
    check!(Msgpack, lists, 1);
    check!(Msgpack, nodes, 1);
    check!(Msgpack, maps, 1);
    check!(Msgpack, expressions, 2);
    check!(Pickle, lists, 1);
    check!(Pickle, nodes, 1);
    check!(Pickle, maps, 1);
    check!(Pickle, expressions, 2);
}
