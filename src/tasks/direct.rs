//! The supply that claims rows of the store.
