//! Messages of one type: values go in and come out, and the log holds them as JSON.
//!
//! Owns the conversion between values and payloads, and nothing else: [`TypedMaster`] and [`TypedReader`] are
//! a [`Master`] and a [`Reader`] behind that conversion. Knows no schema and no schema version: serde decides
//! how to read a value that was appended by an older program. JSON, so that every client of the HTTP
//! interface reads the same messages.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! # use std::sync::Arc;
//! # use replog_core::{
//! #     AppendOptions, Concern, Master, MasterConfig, storage::MemoryStorage,
//! #     transport::LocalNetwork, typed::TypedMaster,
//! # };
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! enum Order {
//!     Placed { customer: u32, apples: u32 },
//!     Paid,
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let config = MasterConfig::new("master".parse()?, vec![]);
//! # let network = Arc::new(LocalNetwork::new());
//! # let master = Master::start(config, Arc::new(MemoryStorage::new()), network).await?;
//! # master.wait_until_writable().await?;
//! let orders: TypedMaster<Order> = TypedMaster::new(master);
//! let order = Order::Placed { customer: 7, apples: 2 };
//! let receipt = orders.append(&order, AppendOptions::concern(Concern::All)).await?;
//!
//! let message = orders.reader().get(receipt.offset).await?.expect("it is there");
//! assert_eq!(message.value, order);
//! # Ok(())
//! # }
//! ```

use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{AppendError, Outcome, ReadError},
    frame::MessageBatch,
    handle::{AppendOptions, Followed, Follower, Master, MessageRange, Reader},
    types::{Epoch, Offset, ReadLevel},
    views::{BatchReceipt, Message, Receipt},
};

/// A [`Master`] whose messages are values of type `T`. Clones share it.
pub struct TypedMaster<T> {
    master: Master,
    values: PhantomData<fn(&T)>,
}

/// A [`Reader`] of messages that are values of type `T`. Clones share it.
pub struct TypedReader<T> {
    reader: Reader,
    values: PhantomData<fn() -> T>,
}

/// A message read as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TypedMessage<T> {
    /// Position of the message.
    pub offset: Offset,
    /// The epoch in which it was appended.
    pub epoch: Epoch,
    /// Milliseconds since 1970, by the master's clock.
    pub timestamp_ms: u64,
    /// Idempotency key of the message, if it has one.
    pub key: Option<String>,
    /// The decoded value.
    pub value: T,
}

/// Error of an append of a value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypedAppendError {
    /// Nothing was appended: the value cannot be written as JSON.
    #[error("the value cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
    /// Error of the master.
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl TypedAppendError {
    /// Returns what is known about the message.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            TypedAppendError::Encode(_) => Outcome::NotAppended,
            TypedAppendError::Append(error) => error.outcome(),
        }
    }
}

/// Error of a read of a value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypedReadError {
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The message was read and does not decode as the type.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Error of a message that does not decode as the requested type: the log is intact, and the messages after
/// it can be read.
#[derive(Debug, thiserror::Error)]
#[error("the message at offset {offset} is not a value of the expected type", offset = .message.offset)]
#[non_exhaustive]
pub struct DecodeError {
    /// The message as it is in the log.
    pub message: Message,
    /// Error of the decoder.
    #[source]
    pub source: serde_json::Error,
}

impl<T: Serialize> TypedMaster<T> {
    /// Wraps the master, for values. Nothing is checked: the log may hold anything.
    #[must_use]
    pub fn new(master: Master) -> TypedMaster<T> {
        let values = PhantomData;
        TypedMaster { master, values }
    }

    /// Returns the master itself, for everything that does not involve values.
    #[must_use]
    pub fn master(&self) -> &Master {
        &self.master
    }

    /// Appends a value, as [`Master::append`] does its payload. An idempotency key covers the value's JSON:
    /// the same value must be serialized in the same way, as serde does for structs but not for a `HashMap`.
    /// A value that is nested more than 128 levels deep is appended but can only be read as a message.
    ///
    /// # Errors
    ///
    /// [`TypedAppendError`]; [`TypedAppendError::outcome`] says whether the message may be in the log.
    ///
    /// # Cancel safety
    ///
    /// As [`Master::append`].
    pub async fn append(
        &self,
        value: &T,
        options: AppendOptions,
    ) -> Result<Receipt, TypedAppendError> {
        let payload = encode(value)?;
        Ok(self.master.append(payload, options).await?)
    }

    /// Appends several values next to each other, all or none, as [`Master::append_batch`] does.
    ///
    /// # Errors
    ///
    /// As [`TypedMaster::append`]; if one of them cannot be written, none is appended.
    ///
    /// # Cancel safety
    ///
    /// As [`Master::append_batch`].
    pub async fn append_batch(
        &self,
        values: &[T],
        options: AppendOptions,
    ) -> Result<BatchReceipt, TypedAppendError> {
        let mut batch = MessageBatch::new();
        for value in values {
            batch.push(encode(value)?);
        }
        Ok(self.master.append_batch(batch, options).await?)
    }
}

impl<T: DeserializeOwned> TypedMaster<T> {
    /// Returns a reader of the master's log.
    #[must_use]
    pub fn reader(&self) -> TypedReader<T> {
        TypedReader::new(self.master.reader())
    }
}

impl<T: DeserializeOwned> TypedReader<T> {
    /// Wraps the reader, for values.
    #[must_use]
    pub fn new(reader: Reader) -> TypedReader<T> {
        let values = PhantomData;
        TypedReader { reader, values }
    }

    /// Returns the reader itself, for ends and waits.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Returns the message at an offset; `None` when the node holds none there.
    ///
    /// # Errors
    ///
    /// [`TypedReadError`].
    pub async fn get(&self, offset: Offset) -> Result<Option<TypedMessage<T>>, TypedReadError> {
        let message = self.reader.get(offset).await?;
        Ok(message.map(decode).transpose()?)
    }

    /// Returns the messages of `from..until` that the node holds, up to `bytes_max` bytes of records and at
    /// least one; none where it holds none of them. Each is decoded on its own: one that fails to decode
    /// hides no other.
    ///
    /// # Errors
    ///
    /// As [`Reader::read`].
    pub async fn read(
        &self,
        from: Offset,
        until: Offset,
        bytes_max: usize,
    ) -> Result<Vec<Result<TypedMessage<T>, DecodeError>>, ReadError> {
        let batches = self.reader.read(from, until, bytes_max).await?;
        Ok(decode_all(&batches))
    }

    /// Reads from `from` on, and continues as the log grows at `level`.
    #[must_use]
    pub fn follow(&self, from: Offset, level: ReadLevel) -> TypedFollower<T> {
        TypedFollower {
            follower: self.reader.follow(from, level),
            values: PhantomData,
        }
    }
}

/// A [`Follower`] of messages that are values of type `T`.
///
/// ```
/// # use std::sync::Arc;
/// # use replog_core::{
/// #     AppendOptions, Master, MasterConfig, Offset, ReadLevel, storage::MemoryStorage,
/// #     transport::LocalNetwork, typed::{TypedFollowed, TypedMaster},
/// # };
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let config = MasterConfig::new("master".parse()?, vec![]);
/// # let network = Arc::new(LocalNetwork::new());
/// # let master = Master::start(config, Arc::new(MemoryStorage::new()), network).await?;
/// # master.wait_until_writable().await?;
/// let numbers: TypedMaster<u32> = TypedMaster::new(master);
/// let mut follower = numbers.reader().follow(Offset(0), ReadLevel::Committed);
/// numbers.append(&17, AppendOptions::default()).await?;
/// match follower.next(64 << 10).await? {
///     TypedFollowed::Messages(messages) => {
///         for message in messages {
///             assert_eq!(message?.value, 17);
///         }
///     }
///     TypedFollowed::Cut { offset } => println!("forget everything from {offset} on"),
/// }
/// # Ok(())
/// # }
/// ```
pub struct TypedFollower<T> {
    follower: Follower,
    values: PhantomData<fn() -> T>,
}

/// An item returned by a [`TypedFollower`].
#[derive(Debug)]
pub enum TypedFollowed<T> {
    /// The next messages, in order. Each is decoded on its own: one that fails to decode hides no other.
    /// Empty where the records that were read hold no message.
    Messages(Vec<Result<TypedMessage<T>, DecodeError>>),
    /// The log was cut, as in [`Followed::Cut`].
    Cut {
        /// The first offset that was delivered and is no longer in the log.
        offset: Offset,
    },
}

impl<T: DeserializeOwned> TypedFollower<T> {
    /// Returns the offset of the next record that it reads.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.follower.offset()
    }

    /// Returns the next item, as [`Follower::next`] does, with values.
    ///
    /// # Errors
    ///
    /// As [`Follower::next`].
    ///
    /// # Cancel safety
    ///
    /// As [`Follower::next`].
    pub async fn next(&mut self, bytes_max: usize) -> Result<TypedFollowed<T>, ReadError> {
        Ok(match self.follower.next(bytes_max).await? {
            Followed::Records(batches) => TypedFollowed::Messages(decode_all(&batches)),
            Followed::Cut { offset } => TypedFollowed::Cut { offset },
        })
    }
}

fn decode_all<T: DeserializeOwned>(
    ranges: &[MessageRange],
) -> Vec<Result<TypedMessage<T>, DecodeError>> {
    let messages = ranges.iter().flat_map(MessageRange::messages);
    messages.map(decode).collect()
}

/// Decodes a message's payload as a value: for messages that did not come from a [`TypedReader`].
///
/// # Errors
///
/// [`DecodeError`], with the message in it.
pub fn decode<T: DeserializeOwned>(message: Message) -> Result<TypedMessage<T>, DecodeError> {
    match serde_json::from_slice(&message.payload) {
        Ok(value) => Ok(TypedMessage {
            offset: message.offset,
            epoch: message.epoch,
            timestamp_ms: message.timestamp_ms,
            key: message.key,
            value,
        }),
        Err(source) => Err(DecodeError { message, source }),
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Bytes, TypedAppendError> {
    let json = serde_json::to_vec(value).map_err(TypedAppendError::Encode)?;
    Ok(json.into())
}

// If derived, these would require the same of `T`.
impl<T> Clone for TypedMaster<T> {
    fn clone(&self) -> TypedMaster<T> {
        TypedMaster {
            master: self.master.clone(),
            values: PhantomData,
        }
    }
}

impl<T> Clone for TypedReader<T> {
    fn clone(&self) -> TypedReader<T> {
        TypedReader {
            reader: self.reader.clone(),
            values: PhantomData,
        }
    }
}

impl<T> fmt::Debug for TypedMaster<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedMaster").field(&self.master).finish()
    }
}

impl<T> fmt::Debug for TypedReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedReader").field(&self.reader).finish()
    }
}

impl<T> fmt::Debug for TypedFollower<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedFollower")
            .field(&self.follower)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use serde::Deserialize;

    use super::*;
    use crate::{MasterConfig, storage::MemoryStorage, transport::LocalNetwork};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Event {
        number: u64,
        text: String,
    }

    async fn master() -> Master {
        let config = MasterConfig::new("master".parse().unwrap(), vec![]);
        let network = Arc::new(LocalNetwork::new());
        let master = Master::start(config, Arc::new(MemoryStorage::new()), network)
            .await
            .unwrap();
        master.wait_until_writable().await.unwrap();
        master
    }

    fn event(number: u64) -> Event {
        let text = format!("line\nbreak \u{1f34e} {number}");
        Event { number, text }
    }

    fn options() -> AppendOptions {
        AppendOptions::default()
    }

    #[tokio::test]
    async fn values_round_trip_alone_and_in_batches() {
        let events = TypedMaster::<Event>::new(master().await);
        events.append(&event(0), options()).await.unwrap();
        let batch = [event(1), event(2)];
        let receipt = events.append_batch(&batch, options()).await.unwrap();
        assert_eq!((receipt.first_offset, receipt.count), (Offset(1), 2));
        let reader = events.reader();
        let read = reader.read(Offset(0), Offset(9), 1 << 20).await.unwrap();
        let values: Vec<Event> = read.into_iter().map(|read| read.unwrap().value).collect();
        assert_eq!(values, [event(0), event(1), event(2)]);
        let one = reader.get(Offset(2)).await.unwrap().unwrap();
        assert_eq!((one.offset, one.value), (Offset(2), event(2)));
        assert!(reader.get(Offset(3)).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_log_holds_the_json_of_the_value() {
        let events = TypedMaster::<Event>::new(master().await);
        events.append(&event(7), options()).await.unwrap();
        let message = events.master().reader().get(Offset(0)).await.unwrap();
        assert_eq!(
            message.unwrap().payload,
            "{\"number\":7,\"text\":\"line\\nbreak \u{1f34e} 7\"}"
        );
    }

    #[tokio::test]
    async fn a_message_that_does_not_decode_is_reported_and_hides_no_other() {
        let master = master().await;
        let events = TypedMaster::<Event>::new(master.clone());
        events.append(&event(0), options()).await.unwrap();
        master.append(vec![0xff, 0], options()).await.unwrap();
        events.append(&event(2), options()).await.unwrap();
        let reader = events.reader();
        let read = reader.read(Offset(0), Offset(9), 1 << 20).await.unwrap();
        let offsets: Vec<Result<u64, Offset>> = read
            .into_iter()
            .map(|read| match read {
                Ok(message) => Ok(message.value.number),
                Err(error) => Err(error.message.offset),
            })
            .collect();
        assert_eq!(offsets, [Ok(0), Err(Offset(1)), Ok(2)]);
        let error = reader.get(Offset(1)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the message at offset 1 is not a value of the expected type"
        );
        let TypedReadError::Decode(error) = error else {
            panic!("{error}");
        };
        assert_eq!(&error.message.payload[..], [0xff, 0]);
    }

    #[tokio::test]
    async fn a_follower_gets_each_value_as_it_is_appended() {
        let master = master().await;
        let events = TypedMaster::<Event>::new(master.clone());
        let mut follower = events.reader().follow(Offset(0), ReadLevel::Local);
        for number in 0..3 {
            match number {
                1 => master
                    .append("no event", options())
                    .await
                    .map(drop)
                    .unwrap(),
                _ => drop(events.append(&event(number), options()).await.unwrap()),
            }
            let followed = follower.next(1 << 20).await.unwrap();
            let TypedFollowed::Messages(messages) = followed else {
                panic!("{followed:?}");
            };
            let values: Vec<Option<Event>> = messages
                .into_iter()
                .map(|message| message.ok().map(|message| message.value))
                .collect();
            assert_eq!(values, [(number != 1).then(|| event(number))]);
            assert_eq!(follower.offset(), Offset(number + 1));
        }
        master.stop().await;
        let ended = follower.next(1 << 20).await.unwrap_err();
        assert!(matches!(ended, ReadError::Stopped), "{ended}");
    }

    #[tokio::test]
    async fn a_value_that_json_cannot_hold_is_not_appended_nor_is_its_batch() {
        // JSON has only strings as keys.
        let maps = TypedMaster::<BTreeMap<Vec<u8>, u8>>::new(master().await);
        let (good, bad) = (BTreeMap::new(), BTreeMap::from([(vec![1], 1)]));
        let alone = maps.append(&bad, options()).await.unwrap_err();
        let batch = [good.clone(), bad];
        let batch = maps.append_batch(&batch, options()).await.unwrap_err();
        for error in [alone, batch] {
            assert!(matches!(error, TypedAppendError::Encode(_)), "{error}");
            assert_eq!(error.outcome(), Outcome::NotAppended);
        }
        let receipt = maps.append(&good, options()).await.unwrap();
        assert_eq!(receipt.offset, Offset(0));
    }

    #[tokio::test]
    async fn an_error_of_the_master_is_passed_on_unchanged() {
        let events = TypedMaster::<Event>::new(master().await);
        let next = options().expected_offset(Offset(3));
        let error = events.append(&event(0), next).await.unwrap_err();
        let TypedAppendError::Append(AppendError::OffsetMismatch { next }) = error else {
            panic!("{error}");
        };
        assert_eq!(next, Offset(0));
    }

    #[test]
    fn handles_are_send_and_clone_even_if_the_values_are_not() {
        fn anywhere<T: Send + Sync + Clone + 'static>() {}
        // Neither Send nor Clone.
        struct Here(#[expect(dead_code, reason = "only its type matters")] *const ());
        anywhere::<TypedMaster<Here>>();
        anywhere::<TypedReader<Here>>();
        fn elsewhere<T: Send + 'static>() {}
        elsewhere::<TypedFollower<Here>>();
    }
}
