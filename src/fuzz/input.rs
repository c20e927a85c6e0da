//! `Input`: a fuzzer's bytes, taken from the front.

/// What is left of the bytes. Whoever takes more than there is gets zeros or nothing: every input means something.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    /// One byte.
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Two bytes as a number.
    pub(crate) fn number(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    /// Up to a line feed, which is taken and not given.
    pub(crate) fn line(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|byte| *byte == b'\n').unwrap_or(self.0.len());
        let (line, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        line
    }

    /// Whether nothing is left.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Sound bytes with some of them replaced, removed, inserted or repeated, as the input says. Equal to them where it says nothing.
pub(crate) fn changed(sound: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for _ in 0..8 {
        if input.is_empty() {
            break;
        }
        let (what, at, with) = (input.byte(), input.number(), input.byte());
        let at = at % (bytes.len() + 1);
        match what % 6 {
            0 => bytes.get_mut(at).into_iter().for_each(|byte| *byte = with),
            1 => bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << (with % 8)),
            2 => drop(bytes.splice(at..(at + usize::from(with)).min(bytes.len()), [])),
            3 => bytes.insert(at, with),
            4 => {
                let again: Vec<u8> = bytes.iter().skip(at).take(usize::from(with)).copied().collect();
                bytes.splice(at..at, again);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}
