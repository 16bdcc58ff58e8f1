// Package monitor judges a site's readings: it raises an alert when an incident
// begins, another when it ends, and, in mode act, issues the automatic commands
// that policy allows.
//
// It guarantees that
//   - a reading counts for the server alone that published it: the payload must
//     name the topic's sensor, and every automatic command is for the pool of
//     the one server whose readings caused it;
//   - nothing but alerts leaves it in the zero mode, observe;
//   - a command is sent each second until its status comes or its time to live
//     is over, and no command outlives the evidence by more than that: it is
//     renewed only while the incident lasts and its server still speaks;
//   - for each server, metric, command and controller, one run is a command and
//     at most Renewals further ones, whether the same incident asks for them or
//     the next; a run is over when the cool-down has passed since its last
//     command lapsed. A failure, or somebody ending what the command began,
//     ends the run's commands at once, and the cool-down counts from there;
//   - the Observe methods never block. When Run falls behind, the oldest entries
//     make room for the newest, counted.
//
// A silent server (no reading for 60 s) keeps its incident: an attack may be
// what silences it. Nothing is renewed meanwhile, so what was done lapses.
//
// It also says in its log which machines are connected to no broker, as brokers
// tell. Nothing is judged by that: a broker can say what it likes.
//
// It keeps nothing across a restart: an incident that lasts is raised anew, with
// a new identifier, and answered anew. Commands state what is wanted absolutely,
// and the controller holds policy's bounds itself, which makes that harmless.
//
// It does not authenticate. What is observed must have been opened and verified
// by package session, and the controller believes the monitor's signature no
// further than policy says.
package monitor
