//! What a log signs.

use consentd::tlog::tree::{Hash, empty_root};
use consentd::tlog::{Checkpoint, Note, checkpoint::CheckpointFault};
use proptest::prelude::*;

use super::note::{COSIGNED, mistyped};

const ROOT: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

#[test]
fn the_example_of_the_specification_is_read() {
    let text = Note::parse(COSIGNED).unwrap().text;
    let checkpoint = Checkpoint::parse(&text).unwrap();
    assert_eq!(checkpoint.origin, "example.com/behind-the-sofa");
    assert_eq!(checkpoint.size, 20_852_163);
    assert_eq!(checkpoint.root.to_string(), "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=");
    assert!(checkpoint.extensions.is_empty());
    assert_eq!(checkpoint.to_string(), text);
}

#[test]
fn what_is_not_a_checkpoint_is_refused_where_it_is_wrong() {
    let empty = Checkpoint { origin: "log".into(), size: 0, root: empty_root(), extensions: Vec::new() };
    assert_eq!(Checkpoint::parse(&format!("log\n0\n{ROOT}\n")), Ok(empty));
    for (text, fault) in [
        (String::new(), CheckpointFault::Lines),
        ("\n".to_owned(), CheckpointFault::EmptyLine(1)),
        ("log\n".to_owned(), CheckpointFault::Lines),
        ("log\n0\n".to_owned(), CheckpointFault::Lines),
        (format!("log\n0\n{ROOT}"), CheckpointFault::Lines),
        (format!("\n0\n{ROOT}\n"), CheckpointFault::EmptyLine(1)),
        (format!("log\n0\n{ROOT}\n\n"), CheckpointFault::EmptyLine(4)),
        (format!("log\n0\n{ROOT}\nmore\n\nmore\n"), CheckpointFault::EmptyLine(5)),
        (format!("log\n00\n{ROOT}\n"), CheckpointFault::Size),
        (format!("log\n07\n{ROOT}\n"), CheckpointFault::Size),
        (format!("log\n+7\n{ROOT}\n"), CheckpointFault::Size),
        (format!("log\n-0\n{ROOT}\n"), CheckpointFault::Size),
        (format!("log\n 7\n{ROOT}\n"), CheckpointFault::Size),
        (format!("log\n٧\n{ROOT}\n"), CheckpointFault::Size),
        (format!("log\n18446744073709551616\n{ROOT}\n"), CheckpointFault::Size),
        (format!("log\n7\n{ROOT} \n"), CheckpointFault::Root),
        ("log\n7\nAAAA\n".to_owned(), CheckpointFault::Root),
        (format!("log\n7\n{}\n", ROOT.replace("FU=", "FV=")), CheckpointFault::Root),
        (format!("log\r\n7\n{ROOT}\n"), CheckpointFault::Control),
    ] {
        assert_eq!(Checkpoint::parse(&text), Err(fault), "{text:?}");
    }
}

prop_compose! {
    fn checkpoints()(
        origin in "[^\\p{Cc}]{1,12}", size: u64, digits in 0..64_u32, root: [u8; 32],
        extensions in proptest::collection::vec("[^\\p{Cc}]{1,12}", 0..3),
    ) -> Checkpoint {
        Checkpoint { origin, size: size >> digits, root: Hash(root), extensions }
    }
}

proptest! {
    #[test]
    fn a_checkpoint_is_read_as_it_was_written(checkpoint in checkpoints()) {
        prop_assert_eq!(Checkpoint::parse(&checkpoint.to_string()), Ok(checkpoint));
    }

    #[test]
    fn whatever_is_read_as_a_checkpoint_is_displayed_as_it_was(
        checkpoint in checkpoints(), at: prop::sample::Index, with in "[ -~\n]",
    ) {
        let text = mistyped(&checkpoint.to_string(), at, with.chars().next().unwrap());
        if let Ok(checkpoint) = Checkpoint::parse(&text) {
            prop_assert_eq!(checkpoint.to_string(), text);
        }
    }

    #[test]
    fn no_text_makes_a_reader_of_checkpoints_stumble(text in "(.|\n)*") {
        let _ = Checkpoint::parse(&text);
    }
}
