//! The file of bearer tokens, in the form of kube-apiserver's `--token-auth-file`.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, ensure};
use kube_lite::Token;

use crate::certs::files;

/// The tokens of a file; each line is `token,user,uid`, and what follows (groups) is not looked at, since kube-lite's users
/// may all do everything.
///
/// # Errors
/// If the file cannot be read, or a line is something else; the error names the line and never a token.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Token>> {
    parse(&files::read(path)?).with_context(|| format!("--token-auth-file {}", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Vec<Token>> {
    let mut seen = BTreeSet::new();
    let mut tokens = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let mut fields = line.splitn(4, ',').map(str::trim);
        let (token, user, uid) = (fields.next(), fields.next(), fields.next());
        let (Some(token), Some(user), Some(_uid)) = (token, user, uid) else {
            anyhow::bail!("line {number}: expected `token,user,uid`, found fewer fields");
        };
        ensure!(!token.is_empty(), "line {number}: the token is empty");
        ensure!(!user.is_empty(), "line {number}: the user is empty");
        // Whoever quotes it means something that would not be compared as such.
        ensure!(!token.contains(['"', '\'']), "line {number}: the token has quotes; write it without");
        ensure!(seen.insert(token), "line {number}: the token stands in an earlier line already");
        tokens.push(Token::new(user, token));
    }
    ensure!(!tokens.is_empty(), "it holds no token; expected lines of `token,user,uid`");
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_token_and_its_user() {
        let tokens = parse("sesame, robot ,1\n\nopen,admin,2,\"system:masters,other\"\n").unwrap();
        assert!(tokens == [Token::new("robot", "sesame"), Token::new("admin", "open")]);
    }

    #[test]
    fn what_is_wrong_is_said_by_its_line_and_without_the_secret() {
        for (text, expected) in [
            ("", "no token"),
            ("sesame", "line 1: expected `token,user,uid`"),
            ("open,admin,1\nsesame,admin", "line 2: expected"),
            (",sesame,1", "line 1: the token is empty"),
            ("sesame,,1", "line 1: the user is empty"),
            ("\"sesame\",admin,1", "quotes"),
            ("sesame,admin,1\nsesame,other,2", "line 2: the token stands"),
        ] {
            let error = format!("{:#}", parse(text).err().unwrap());
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("sesame"), "{error}");
        }
    }
}
