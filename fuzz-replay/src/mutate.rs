//! Changed copies of inputs: the same seed and inputs give the same copies.

/// Inputs learnt during a search, at most.
const LEARNT: usize = 4096;
/// Bytes of a copy, at most.
const LONGEST: usize = 1 << 14;
/// Values at which lengths, ids and ranges break.
const NUMBERS: [&str; 14] = [
    "0",
    "-1",
    "1",
    "127",
    "128",
    "255",
    "256",
    "65535",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "1e400",
];
/// Texts with a meaning in some of the formats.
const WORDS: [&str; 16] = [
    "null",
    "\"\"",
    "[]",
    "{}",
    "true",
    "\\u0000",
    "\\ud800",
    "::ffff:10.0.0.1",
    "0.0.0.0/0",
    "::/0",
    "/",
    ";",
    "=",
    "\n",
    "\u{2028}",
    "\u{feff}",
];

/// Makes changed copies.
pub(crate) struct Mutator {
    state: u64,
    inputs: Vec<Vec<u8>>,
    /// How many of them are the corpus; what is learnt comes after.
    given: usize,
}

impl Mutator {
    pub(crate) fn new(seed: u64, inputs: &[Vec<u8>]) -> Self {
        Self { state: seed, inputs: inputs.to_vec(), given: inputs.len() }
    }

    /// Takes an input as a starting point, in place of an older one if there are many.
    pub(crate) fn learn(&mut self, input: Vec<u8>) {
        if self.inputs.len() < self.given + LEARNT {
            self.inputs.push(input);
        } else {
            let at = self.given + self.below(LEARNT);
            self.inputs[at] = input;
        }
    }

    /// The next copy, changed in one to six places.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let at = self.below(self.inputs.len());
        let mut input = self.inputs[at].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut input);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        match self.below(12) {
            0 => {
                let bit = self.below(input.len() * 8);
                if let Some(byte) = input.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            1 => {
                let (at, value) = (self.below(input.len()), self.random() as u8);
                if let Some(byte) = input.get_mut(at) {
                    *byte = [0, 1, 0x7f, 0x80, 0xff, value][self.below(6)];
                }
            }
            2 => input.truncate(self.below(input.len() + 1)),
            3 => drop(input.drain(self.span(input.len()))),
            4 => {
                let piece = input[self.span(input.len())].to_vec();
                self.insert(input, &piece);
            }
            5 => {
                let piece: Vec<u8> = (0..=self.below(8)).map(|_| self.random() as u8).collect();
                self.insert(input, &piece);
            }
            // The head of one input and the tail of another.
            6 => {
                let other = self.other();
                input.truncate(self.below(input.len() + 1));
                input.extend_from_slice(&other[self.below(other.len() + 1)..]);
            }
            7 => {
                let other = self.other();
                let piece = &other[self.span(other.len())];
                self.insert(input, piece);
            }
            // A word of one input in the place of a word of another.
            8 | 9 => {
                let other = self.other();
                let word = other[self.word(&other)].to_vec();
                let place = self.word(input);
                input.splice(place, word);
            }
            10 => {
                let number = NUMBERS[self.below(NUMBERS.len())];
                let place = self.word(input);
                input.splice(place, number.bytes());
            }
            _ => {
                let word = WORDS[self.below(WORDS.len())];
                let place = self.word(input);
                input.splice(place, word.bytes());
            }
        }
    }

    fn insert(&mut self, input: &mut Vec<u8>, piece: &[u8]) {
        let at = self.below(input.len() + 1);
        input.splice(at..at, piece.iter().copied());
    }

    fn other(&mut self) -> Vec<u8> {
        let at = self.below(self.inputs.len());
        self.inputs[at].clone()
    }

    /// A run of bytes, mostly a short one.
    fn span(&mut self, len: usize) -> std::ops::Range<usize> {
        let from = self.below(len + 1);
        let longest = if self.below(4) == 0 { len } else { 16 };
        from..(from + self.below(longest + 1)).min(len)
    }

    /// The letters, digits and dots around a random place.
    fn word(&mut self, input: &[u8]) -> std::ops::Range<usize> {
        let of_word = |byte: &u8| byte.is_ascii_alphanumeric() || b".:-_".contains(byte);
        let at = self.below(input.len() + 1);
        let before = input[..at].iter().rev().take_while(|byte| of_word(byte)).count();
        let after = input[at..].iter().take_while(|byte| of_word(byte)).count();
        at - before..at + after
    }

    /// A number below `bound`; 0 if that is 0.
    fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.random() % bound as u64) as usize }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_copies_and_most_differ_from_the_input() {
        let inputs = [br#"{"IP":"10.0.0.1","ID":458752}"#.to_vec(), Vec::new()];
        let copies = |seed| {
            let mut mutator = Mutator::new(seed, &inputs);
            (0..500).map(|_| mutator.next()).collect::<Vec<_>>()
        };
        assert_eq!(copies(1), copies(1));
        assert_ne!(copies(1), copies(2));
        let changed = copies(1).iter().filter(|copy| !inputs.contains(copy)).count();
        assert!(changed > 400, "{changed}");
    }

    #[test]
    fn what_is_learnt_stays_bounded() {
        let mut mutator = Mutator::new(0, &[vec![1]]);
        (0..2 * LEARNT).for_each(|_| mutator.learn(vec![2]));
        assert_eq!(mutator.inputs.len(), LEARNT + 1);
        assert_eq!(mutator.inputs[0], [1]);
    }
}
