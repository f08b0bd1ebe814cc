//! As much of YAML as clouds.yaml needs: maps, lists, and scalars kept as written.
//!
//! A plain `1234` or `no` stays the text that it is: it may be a password. Aliases
//! and `<<` work, within limits that a file of clouds never reaches.

use saphyr_parser::{Event, Parser, ScalarStyle};
use std::collections::BTreeMap;

/// Far above any file of clouds; aliases of aliases reach it in a few lines.
const MAX_NODES: usize = 20_000;

/// A file of clouds is four levels deep.
const MAX_DEPTH: usize = 32;

/// A piece of a file. Not printable: it holds passwords.
#[derive(Clone)]
pub(super) enum Node {
    Nothing,
    Text(String),
    List(Vec<Node>),
    Map(Map),
}

pub(super) type Map = BTreeMap<String, Node>;

/// Why a text is not understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub line: usize,
    pub cause: String,
}

impl Node {
    pub fn map(&self) -> Option<&Map> {
        match self {
            Node::Map(map) => Some(map),
            Node::Nothing | Node::Text(_) | Node::List(_) => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Node::Text(text) => Some(text),
            Node::Nothing | Node::List(_) | Node::Map(_) => None,
        }
    }

    fn size(&self) -> usize {
        match self {
            Node::Nothing | Node::Text(_) => 1,
            Node::List(items) => 1 + items.iter().map(Node::size).sum::<usize>(),
            Node::Map(map) => 1 + map.values().map(Node::size).sum::<usize>(),
        }
    }
}

/// Values of `over` win; maps are merged key by key.
pub(super) fn merge(under: &mut Map, over: Map) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Node::Map(inner)), Node::Map(value)) => merge(inner, value),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// The first document of a text.
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    let mut builder = Builder { events: Parser::new_from_str(text), anchors: BTreeMap::new(), nodes: 0 };
    loop {
        match builder.next()?.0 {
            Event::DocumentStart(_) => {
                let (event, line) = builder.next()?;
                return builder.node(event, line, 0);
            }
            Event::StreamEnd => return Ok(Node::Nothing),
            _ => {}
        }
    }
}

struct Builder<'a> {
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, usize), Fault> {
        match self.events.next_event() {
            Some(Ok((event, span))) => Ok((event, span.start.line())),
            Some(Err(error)) => Err(Fault { line: error.marker().line(), cause: error.info().to_owned() }),
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn count(&mut self, by: usize, line: usize) -> Result<(), Fault> {
        self.nodes += by;
        if self.nodes > MAX_NODES {
            return Err(Fault { line, cause: format!("more than {MAX_NODES} values: is this a file of clouds?") });
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'a>, line: usize, depth: usize) -> Result<Node, Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault { line, cause: format!("nested deeper than {MAX_DEPTH} levels") });
        }
        self.count(1, line)?;
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => (scalar(&text, style), anchor),
            Event::SequenceStart(anchor, _) => (self.list(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.map(depth)?, anchor),
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| Fault { line, cause: "an alias within its own anchor".into() })?;
                self.count(node.size(), line)?;
                return Ok(node);
            }
            _ => return Err(Fault { line, cause: "a value was expected".into() }),
        };
        if anchor > 0 {
            self.count(node.size(), line)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Node, Fault> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Node::List(items)),
                (event, line) => items.push(self.node(event, line, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Node, Fault> {
        let mut own = Map::new();
        let mut merged = Map::new();
        loop {
            let (event, line) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                merged.extend(own);
                return Ok(Node::Map(merged));
            }
            let Node::Text(key) = self.node(event, line, depth + 1)? else {
                return Err(Fault { line, cause: "a key must be a plain word".into() });
            };
            let (event, line) = self.next()?;
            let value = self.node(event, line, depth + 1)?;
            if key != "<<" {
                own.insert(key, value);
                continue;
            }
            let sources = if let Node::List(items) = value { items } else { vec![value] };
            for source in sources.into_iter().rev() {
                let Node::Map(map) = source else {
                    return Err(Fault { line, cause: "`<<` takes a map".into() });
                };
                merged.extend(map);
            }
        }
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Node {
    match (style, text) {
        (ScalarStyle::Plain, "" | "~" | "null" | "Null" | "NULL") => Node::Nothing,
        _ => Node::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'a>(node: &'a Node, path: &str) -> Option<&'a str> {
        path.split('.').try_fold(node, |node, key| node.map()?.get(key))?.text()
    }

    #[test]
    fn scalars_stay_as_written() {
        let node = parse("a: 0123\nb: no\nc: ~\nd: '~'\ne:\n  - x\n").unwrap_or(Node::Nothing);
        assert_eq!((at(&node, "a"), at(&node, "b"), at(&node, "d")), (Some("0123"), Some("no"), Some("~")));
        assert_eq!(at(&node, "c"), None);
    }

    #[test]
    fn anchors_and_merge_keys_work_and_own_keys_win() {
        let text = "base: &b {region_name: R, auth: {x: 1}}\nmine:\n  <<: *b\n  region_name: S\n";
        let node = parse(text).unwrap_or(Node::Nothing);
        assert_eq!((at(&node, "mine.region_name"), at(&node, "mine.auth.x")), (Some("S"), Some("1")));
    }

    #[test]
    fn aliases_of_aliases_end_at_the_limit() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            text.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", ")));
        }
        assert!(parse(&text).err().is_some_and(|fault| fault.cause.contains("more than")));
        assert!(parse(&"[".repeat(100)).is_err());
    }

    #[test]
    fn a_fault_names_its_line() {
        assert_eq!(parse("a: 1\nb: [1\nc: 2\n").err().map(|fault| fault.line > 1), Some(true));
        assert!(parse("").is_ok_and(|node| node.map().is_none()));
    }
}
