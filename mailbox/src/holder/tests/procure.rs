//! What a relay tells of packs that it procured, against what this store knows of them.

use super::*;
use crate::devices::Event;
use crate::holder::rows::PROCUREMENTS;
use crate::holder_store::Procurement;

#[test]
fn what_was_made_is_not_taken_back_and_what_nobody_ordered_is_not_kept() {
    let disk = made(1);
    block_on(async {
        let running = Running::open(&disk, 2).expect("opens");
        let store = &running.store;
        let tell = async |event: Event| {
            let told = store.run(move |stage, write| stage.note_procured(write, &event)).await;
            told.expect("written");
        };
        let (known, foreign) = ([1; 32], [2; 32]);
        let made = |order| Event::Procured {
            order,
            ciphertext: vec![3; 9],
            confirm: [4; 16],
        };
        let ordered = store.run(move |_, write| PROCUREMENTS.put(write, known, &Procurement::Ordered));
        ordered.await.expect("written");
        tell(made(foreign)).await;
        tell(Event::NotProcured { order: foreign }).await;
        assert_eq!(store.procurement(&foreign), Ok(None));
        tell(Event::NotProcured { order: known }).await;
        assert_eq!(store.procurement(&known), Ok(Some(Procurement::Returned)));
        tell(made(known)).await;
        let kept = Procurement::Made {
            ciphertext: vec![3; 9],
            confirm: [4; 16],
        };
        assert_eq!(store.procurement(&known), Ok(Some(kept.clone())));
        tell(Event::NotProcured { order: known }).await;
        let again = Event::Procured {
            order: known,
            ciphertext: vec![5; 9],
            confirm: [6; 16],
        };
        tell(again).await;
        assert_eq!(
            store.procurement(&known),
            Ok(Some(kept)),
            "neither taken back nor replaced"
        );
    });
}
