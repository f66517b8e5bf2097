//! Labels and selectors as numbers, and the index that finds selectors by labels and labels by
//! selectors without trying all of them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::id::{Id, IdSet, Symbol};
use crate::objects::Labels;
use crate::selector::{Operator, Selector};

/// Texts that are kept once, with how many use them. The map is keyed by texts from outside, so its
/// hash is one that nobody can aim at.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    symbols: HashMap<Arc<str>, Symbol>,
    slots: Vec<(Arc<str>, u32)>,
    free: Vec<Symbol>,
}

impl Texts {
    fn acquire(&mut self, text: &str) -> Symbol {
        if let Some(symbol) = self.symbols.get(text) {
            self.slots[symbol.place()].1 += 1;
            return *symbol;
        }
        let text: Arc<str> = text.into();
        let slot = (Arc::clone(&text), 1);
        let symbol = if let Some(symbol) = self.free.pop() {
            self.slots[symbol.place()] = slot;
            symbol
        } else {
            self.slots.push(slot);
            Symbol::new(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
        };
        self.symbols.insert(text, symbol);
        symbol
    }

    fn release(&mut self, symbol: Symbol) {
        let (text, users) = &mut self.slots[symbol.place()];
        *users = users.saturating_sub(1);
        if *users == 0 {
            self.symbols.remove(text);
            *text = Arc::from("");
            self.free.push(symbol);
        }
    }

    fn text(&self, symbol: Symbol) -> &str {
        &self.slots[symbol.place()].0
    }

    /// Labels as numbers, sorted by key.
    pub(crate) fn labels(&mut self, labels: &Labels) -> LabelSet {
        let mut list: Vec<Label> = labels
            .iter()
            .map(|(key, value)| Label {
                key: self.acquire(key),
                value: self.acquire(value),
            })
            .collect();
        list.sort_unstable();
        LabelSet(list.into())
    }

    pub(crate) fn release_labels(&mut self, labels: &LabelSet) {
        for label in labels.0.iter() {
            self.release(label.key);
            self.release(label.value);
        }
    }

    /// Whether these are those labels.
    pub(crate) fn are(&self, set: &LabelSet, labels: &Labels) -> bool {
        set.0.len() == labels.len()
            && set.0.iter().all(|label| {
                labels
                    .get(self.text(label.key))
                    .is_some_and(|value| value == self.text(label.value))
            })
    }

    /// Labels as text again.
    pub(crate) fn spell(&self, labels: &LabelSet) -> Labels {
        let spelled = |label: &Label| {
            (
                self.text(label.key).to_owned(),
                self.text(label.value).to_owned(),
            )
        };
        labels.0.iter().map(spelled).collect()
    }

    /// A selector as numbers.
    pub(crate) fn query(&mut self, selector: &Selector) -> Query {
        let tests = selector.requirements().iter().map(|requirement| {
            let key = self.acquire(&requirement.key);
            match &requirement.operator {
                Operator::In(values) => match values.as_slice() {
                    [value] => Test::Is(key, self.acquire(value)),
                    values => Test::In(key, self.values(values)),
                },
                Operator::NotIn(values) => Test::NotIn(key, self.values(values)),
                Operator::Exists => Test::Exists(key),
                Operator::DoesNotExist => Test::Absent(key),
            }
        });
        Query(tests.collect())
    }

    fn values(&mut self, values: &[String]) -> Box<[Symbol]> {
        let mut list: Vec<Symbol> = values.iter().map(|value| self.acquire(value)).collect();
        list.sort_unstable();
        list.into()
    }

    pub(crate) fn release_query(&mut self, query: &Query) {
        for test in &query.0 {
            match test {
                Test::Is(key, value) => {
                    self.release(*key);
                    self.release(*value);
                }
                Test::In(key, values) | Test::NotIn(key, values) => {
                    self.release(*key);
                    for value in values {
                        self.release(*value);
                    }
                }
                Test::Exists(key) | Test::Absent(key) => self.release(*key),
            }
        }
    }

    /// How many texts are kept.
    pub(crate) fn len(&self) -> usize {
        self.symbols.len()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Label {
    key: Symbol,
    value: Symbol,
}

/// Labels of one object, sorted by the numbers of their keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct LabelSet(Arc<[Label]>);

impl LabelSet {
    fn value(&self, key: Symbol) -> Option<Symbol> {
        let place = self.0.binary_search_by_key(&key, |label| label.key).ok()?;
        Some(self.0[place].value)
    }

    /// What a selector that selects these labels may be found by.
    fn anchors(&self) -> impl Iterator<Item = Anchor> + '_ {
        let of = |label: &Label| [Anchor::Key(label.key), Anchor::Pair(label.key, label.value)];
        self.0.iter().flat_map(of)
    }
}

/// A selector as numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Box<[Test]>);

#[derive(Debug, Clone)]
enum Test {
    Is(Symbol, Symbol),
    In(Symbol, Box<[Symbol]>),
    NotIn(Symbol, Box<[Symbol]>),
    Exists(Symbol),
    Absent(Symbol),
}

/// What a selector's labels must have, so that it is looked for only there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Anchor {
    /// Nothing: it may select any labels.
    None,
    /// A key.
    Key(Symbol),
    /// A key with a value.
    Pair(Symbol, Symbol),
}

impl Query {
    /// Whether it selects whatever labels there are.
    pub(crate) fn selects_all(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn matches(&self, labels: &LabelSet) -> bool {
        self.0.iter().all(|test| match test {
            Test::Is(key, value) => labels.value(*key) == Some(*value),
            Test::In(key, values) => labels
                .value(*key)
                .is_some_and(|value| values.binary_search(&value).is_ok()),
            Test::NotIn(key, values) => labels
                .value(*key)
                .is_none_or(|value| values.binary_search(&value).is_err()),
            Test::Exists(key) => labels.value(*key).is_some(),
            Test::Absent(key) => labels.value(*key).is_none(),
        })
    }

    /// Anchors of which what it selects has exactly one: the values of the requirement with the
    /// fewest, else a key that must be there.
    fn anchors(&self) -> Vec<Anchor> {
        let mut best: Option<(Symbol, &[Symbol])> = None;
        let mut key = None;
        for test in &self.0 {
            let (own, values) = match test {
                Test::Is(own, value) => (*own, std::slice::from_ref(value)),
                Test::In(own, values) => (*own, &**values),
                Test::Exists(own) => {
                    key = Some(*own);
                    continue;
                }
                Test::NotIn(..) | Test::Absent(_) => continue,
            };
            if best.is_none_or(|(_, best)| values.len() < best.len()) {
                best = Some((own, values));
            }
        }
        match (best, key) {
            (Some((key, values)), _) => values
                .iter()
                .map(|value| Anchor::Pair(key, *value))
                .collect(),
            (None, Some(key)) => vec![Anchor::Key(key)],
            (None, None) => vec![Anchor::None],
        }
    }
}

/// Finds selectors (`Q`, each within a scope `S`) and labelled things (`T`) by each other.
#[derive(Debug)]
pub(crate) struct Matching<S, Q, T> {
    queries: FxHashMap<(S, Anchor), IdSet<Q>>,
    things: FxHashMap<Anchor, IdSet<T>>,
}

impl<S, Q, T> Default for Matching<S, Q, T> {
    fn default() -> Self {
        Self {
            queries: FxHashMap::default(),
            things: FxHashMap::default(),
        }
    }
}

impl<S: Copy + Eq + Hash, Q: Id, T: Id> Matching<S, Q, T> {
    pub(crate) fn insert_query(&mut self, scope: S, query: &Query, id: Q) {
        for anchor in query.anchors() {
            self.queries.entry((scope, anchor)).or_default().insert(id);
        }
    }

    pub(crate) fn remove_query(&mut self, scope: S, query: &Query, id: Q) {
        for anchor in query.anchors() {
            remove(&mut self.queries, (scope, anchor), id);
        }
    }

    pub(crate) fn insert_thing(&mut self, labels: &LabelSet, id: T) {
        for anchor in labels.anchors().chain([Anchor::None]) {
            self.things.entry(anchor).or_default().insert(id);
        }
    }

    pub(crate) fn remove_thing(&mut self, labels: &LabelSet, id: T) {
        for anchor in labels.anchors().chain([Anchor::None]) {
            remove(&mut self.things, anchor, id);
        }
    }

    /// Selectors of the scope that may select these labels, each once.
    pub(crate) fn queries<'a>(
        &'a self,
        scope: S,
        labels: &'a LabelSet,
    ) -> impl Iterator<Item = Q> + 'a {
        let anchors = labels.anchors().chain([Anchor::None]);
        anchors
            .filter_map(move |anchor| self.queries.get(&(scope, anchor)))
            .flat_map(IdSet::iter)
    }

    /// How many things [`Self::things`] gives.
    pub(crate) fn count(&self, query: &Query) -> usize {
        let anchors = query.anchors();
        let sets = anchors.iter().filter_map(|anchor| self.things.get(anchor));
        sets.map(IdSet::len).sum()
    }

    /// Things that the selector may select, each once.
    pub(crate) fn things<'a>(&'a self, query: &Query) -> impl Iterator<Item = T> + 'a {
        let anchors = query.anchors().into_iter();
        anchors
            .filter_map(|anchor| self.things.get(&anchor))
            .flat_map(IdSet::iter)
    }
}

fn remove<K: Eq + Hash, I: Id>(sets: &mut FxHashMap<K, IdSet<I>>, key: K, id: I) {
    if let std::collections::hash_map::Entry::Occupied(mut entry) = sets.entry(key) {
        entry.get_mut().remove(id);
        if entry.get().is_empty() {
            entry.remove();
        }
    }
}
