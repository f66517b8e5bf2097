//! Numbers that stand for things of the index, the tables they point into and sets of them. They
//! mean something in this process only: what leaves it is named by keys that follow from content.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

use smallvec::SmallVec;

/// A number that stands for one kind of thing.
pub(crate) trait Id: Copy + Eq + Ord + std::hash::Hash + std::fmt::Debug {
    fn new(number: u32) -> Self;
    fn number(self) -> u32;
    fn place(self) -> usize {
        self.number() as usize
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $visibility:vis $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        $visibility struct $name(u32);

        impl Id for $name {
            fn new(number: u32) -> Self {
                Self(number)
            }
            fn number(self) -> u32 {
                self.0
            }
        }
    )*};
}

ids! {
    /// A node, until the next change of the index.
    pub NodeId;
    /// A text that several things share.
    pub(crate) Symbol;
    /// A namespace.
    pub(crate) NamespaceId;
    /// A pod.
    pub(crate) PodId;
    /// Pods of one namespace with the same labels.
    pub(crate) ClassId;
    /// A policy.
    pub(crate) PolicyId;
    /// A selector of namespaces.
    pub(crate) NamespaceSelectionId;
    /// A selector of nodes.
    pub(crate) NodeSelectionId;
    /// A selector of pods with its namespaces.
    pub(crate) SelectionId;
}

/// A table of things by id. Ids of things that were removed are used again only after
/// [`Arena::recycle`], so that what is still written down of them is not taken for something else.
#[derive(Debug)]
pub(crate) struct Arena<I, T> {
    slots: Vec<T>,
    retired: Vec<I>,
    free: Vec<I>,
}

impl<I, T> Default for Arena<I, T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            retired: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<I: Id, T: Default> Arena<I, T> {
    pub(crate) fn insert(&mut self, thing: T) -> I {
        if let Some(id) = self.free.pop() {
            self.slots[id.place()] = thing;
            return id;
        }
        // 4 billion things need more memory than there is.
        let id = I::new(u32::try_from(self.slots.len()).unwrap_or(u32::MAX));
        self.slots.push(thing);
        id
    }

    /// Takes a thing out; its slot is empty until then.
    pub(crate) fn retire(&mut self, id: I) -> T {
        self.retired.push(id);
        std::mem::take(&mut self.slots[id.place()])
    }

    pub(crate) fn recycle(&mut self) {
        self.free.append(&mut self.retired);
    }

    /// How many things there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.retired.len() - self.free.len()
    }
}

impl<I: Id, T> Index<I> for Arena<I, T> {
    type Output = T;

    fn index(&self, id: I) -> &T {
        &self.slots[id.place()]
    }
}

impl<I: Id, T> IndexMut<I> for Arena<I, T> {
    fn index_mut(&mut self, id: I) -> &mut T {
        &mut self.slots[id.place()]
    }
}

/// Ids kept sorted in a list until that is so long.
const MAX_SPARSE: usize = 64;

/// A set of ids: a sorted list, or a bitmap where that is smaller. Up to four are kept in place.
#[derive(Clone)]
pub(crate) struct IdSet<I> {
    form: Form,
    kind: PhantomData<I>,
}

#[derive(Debug, Clone)]
enum Form {
    Sparse(SmallVec<[u32; 4]>),
    Dense(Box<Bitmap>),
}

#[derive(Debug, Clone)]
struct Bitmap {
    words: Vec<u64>,
    count: usize,
}

const fn word(number: u32) -> usize {
    (number / 64) as usize
}

const fn bit(number: u32) -> u64 {
    1 << (number % 64)
}

impl<I> Default for IdSet<I> {
    fn default() -> Self {
        Self {
            form: Form::Sparse(SmallVec::new()),
            kind: PhantomData,
        }
    }
}

impl<I> std::fmt::Debug for IdSet<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.form.fmt(f)
    }
}

impl<I: Id> IdSet<I> {
    pub(crate) fn len(&self) -> usize {
        match &self.form {
            Form::Sparse(list) => list.len(),
            Form::Dense(bitmap) => bitmap.count,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn contains(&self, id: I) -> bool {
        let number = id.number();
        match &self.form {
            Form::Sparse(list) => list.binary_search(&number).is_ok(),
            Form::Dense(bitmap) => bitmap
                .words
                .get(word(number))
                .is_some_and(|word| word & bit(number) != 0),
        }
    }

    /// Whether it was not there.
    pub(crate) fn insert(&mut self, id: I) -> bool {
        let number = id.number();
        let new = match &mut self.form {
            Form::Sparse(list) => {
                if list.last().is_none_or(|last| *last < number) {
                    list.push(number);
                    true
                } else if let Err(place) = list.binary_search(&number) {
                    list.insert(place, number);
                    true
                } else {
                    false
                }
            }
            Form::Dense(bitmap) => {
                let at = word(number);
                if at >= bitmap.words.len() {
                    bitmap.words.resize(at + 1, 0);
                }
                let new = bitmap.words[at] & bit(number) == 0;
                bitmap.words[at] |= bit(number);
                bitmap.count += usize::from(new);
                new
            }
        };
        if new {
            self.choose_form();
        }
        new
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, id: I) -> bool {
        let number = id.number();
        let there = match &mut self.form {
            Form::Sparse(list) => match list.binary_search(&number) {
                Ok(place) => {
                    list.remove(place);
                    true
                }
                Err(_) => false,
            },
            Form::Dense(bitmap) => match bitmap.words.get_mut(word(number)) {
                Some(word) if *word & bit(number) != 0 => {
                    *word &= !bit(number);
                    bitmap.count -= 1;
                    true
                }
                _ => false,
            },
        };
        if there {
            self.choose_form();
        }
        there
    }

    /// A list takes 32 bits an id, a bitmap one bit for every id up to the highest. The bounds are
    /// apart, so that one id back and forth does not change the form.
    fn choose_form(&mut self) {
        match &self.form {
            Form::Sparse(list) => {
                let highest = list.last().copied().unwrap_or_default();
                if list.len() > MAX_SPARSE && list.len() > word(highest) * 2 {
                    let mut words = vec![0; word(highest) + 1];
                    for number in list {
                        words[word(*number)] |= bit(*number);
                    }
                    let count = list.len();
                    self.form = Form::Dense(Box::new(Bitmap { words, count }));
                }
            }
            Form::Dense(bitmap) => {
                if bitmap.count * 2 < bitmap.words.len() || bitmap.count < MAX_SPARSE / 2 {
                    self.form = Form::Sparse(self.iter().map(Id::number).collect());
                }
            }
        }
    }

    /// The ids in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = I> + '_ {
        let (list, words) = match &self.form {
            Form::Sparse(list) => (list.as_slice(), &[][..]),
            Form::Dense(bitmap) => (&[][..], bitmap.words.as_slice()),
        };
        let bits = words.iter().enumerate().flat_map(|(at, word)| {
            let mut rest = *word;
            let base = u32::try_from(at * 64).unwrap_or(u32::MAX);
            std::iter::from_fn(move || {
                let lowest = rest.trailing_zeros();
                rest = rest.checked_sub(1)? & rest;
                Some(base + lowest)
            })
        });
        list.iter().copied().chain(bits).map(I::new)
    }

    /// The ids that are not in the other set, in order.
    pub(crate) fn but(&self, other: &Self) -> Vec<I> {
        self.iter().filter(|id| !other.contains(*id)).collect()
    }

    /// The ids that are in the other set, too, in order.
    pub(crate) fn common(&self, other: &Self) -> Vec<I> {
        self.iter().filter(|id| other.contains(*id)).collect()
    }
}

impl<I: Id> PartialEq for IdSet<I> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<I: Id> Extend<I> for IdSet<I> {
    fn extend<T: IntoIterator<Item = I>>(&mut self, ids: T) {
        for id in ids {
            self.insert(id);
        }
    }
}

impl<I: Id> FromIterator<I> for IdSet<I> {
    fn from_iter<T: IntoIterator<Item = I>>(ids: T) -> Self {
        let mut set = Self::default();
        set.extend(ids);
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever form it has, it is the set it should be.
        #[test]
        fn a_set_is_a_set(
            steps in prop::collection::vec((any::<bool>(), prop_oneof![4 => 0..300u32, 1 => 0..100_000u32]), 0..600),
        ) {
            let mut set = IdSet::<PodId>::default();
            let mut expected = BTreeSet::new();
            for (insert, number) in steps {
                let id = PodId::new(number);
                if insert {
                    prop_assert_eq!(set.insert(id), expected.insert(id));
                } else {
                    prop_assert_eq!(set.remove(id), expected.remove(&id));
                }
                prop_assert_eq!(set.len(), expected.len());
                prop_assert_eq!(set.contains(id), expected.contains(&id));
            }
            prop_assert!(set.iter().eq(expected.iter().copied()));
            prop_assert_eq!(&set, &expected.iter().copied().collect());
        }
    }

    #[test]
    fn ten_thousand_neighbours_take_a_bit_each() {
        let set: IdSet<PodId> = (0..10_000).map(PodId::new).collect();
        assert!(matches!(&set.form, Form::Dense(bitmap) if bitmap.words.len() == 157));
        let far: IdSet<PodId> = (0..1000).map(|n| PodId::new(n * 1000)).collect();
        assert!(matches!(&far.form, Form::Sparse(_)));
    }

    #[test]
    fn ids_wait_before_they_are_used_again() {
        let mut arena = Arena::<PodId, u8>::default();
        let first = arena.insert(1);
        assert_eq!(arena.retire(first), 1);
        assert_ne!(arena.insert(2), first);
        arena.recycle();
        assert_eq!(arena.insert(3), first);
        assert_eq!(arena.len(), 2);
    }
}
