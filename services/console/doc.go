// Package console shows a site to the people at its controls: one page on a
// loopback address, kept live by server-sent events (docs/console.md).
//
// It guarantees that the page can change nothing: no request but GET and HEAD
// is answered, and the console's session publishes nothing. It guarantees that
// what came over the network reaches the browser as strings inside JSON and
// never as markup, that a reading is called confirmed only when its sender's
// signed digest covers it, and that all it holds is bounded, whatever a
// captured broker sends: what is left out is counted and said. It guarantees
// that no sender's flood takes the place of another's open incident or command,
// and that "in force" is said of nothing but what a controller says. It answers
// a browser that another site's page has sent here with a refusal.
//
// It does not know who reads: every local user who can connect to the address
// can. It keeps nothing across a restart; the recorder does.
package console
