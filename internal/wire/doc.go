// Package wire holds what travels: the topics, and the payloads of messages
// with their strict decoding. docs/topics.md is its specification.
//
// It guarantees that what it decodes has one reading in every JSON parser:
// no duplicate or escaped names, valid UTF-8, bounded depth, required members
// present. It does not authenticate anything; package envelope does.
package wire
