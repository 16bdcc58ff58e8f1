package monitor

import "sync/atomic"

// Counter is one of the things that a monitor counts.
type Counter uint8

// The counters.
const (
	Judged         Counter = iota // readings that the detector took
	Late                          // readings no newer than the last
	RefusedTopic                  // readings or statuses from a publisher that may not
	RefusedServer                 // readings whose payload names another server
	RefusedRange                  // readings with a number that cannot be
	RefusedFull                   // readings of a server beyond the bound
	LostReadings                  // pushed out of the queue by newer ones
	LostStatuses                  // pushed out of the queue by newer ones
	RefusedStatus                 // statuses that do not match their command
	Raised                        // incidents that began
	Ended                         // incidents that ended
	Silenced                      // incidents whose server fell silent
	Unserved                      // incidents with an answer, but no controller for the server
	LostAlerts                    // given up because none could be sent for long
	Issued                        // commands
	Repeated                      // times that a command was sent again
	Withheld                      // commands that were not issued in mode observe
	Succeeded                     // commands answered with success
	Failed                        // commands answered with failure
	Overruled                     // commands whose effect somebody ended
	Unanswered                    // commands that expired without a status
	UnsentMessages                // attempts to publish that failed
	Absent                        // machines that were connected nowhere for a while
	Back                          // of them those that came back
	LostPresence                  // words of brokers pushed out of the queue by newer ones
	countersNumber
)

var counterNames = [countersNumber]string{
	Judged:         "judged",
	Late:           "late",
	RefusedTopic:   "refused_topic",
	RefusedServer:  "refused_server",
	RefusedRange:   "refused_range",
	RefusedFull:    "refused_full",
	LostReadings:   "lost_readings",
	LostStatuses:   "lost_statuses",
	RefusedStatus:  "refused_status",
	Raised:         "raised",
	Ended:          "ended",
	Silenced:       "silenced",
	Unserved:       "unserved",
	LostAlerts:     "lost_alerts",
	Issued:         "issued",
	Repeated:       "repeated",
	Withheld:       "withheld",
	Succeeded:      "succeeded",
	Failed:         "failed",
	Overruled:      "overruled",
	Unanswered:     "unanswered",
	UnsentMessages: "unsent_messages",
	Absent:         "absent",
	Back:           "back",
	LostPresence:   "lost_presence",
}

// String returns the counter's name in logs and metrics.
func (c Counter) String() string {
	if c >= countersNumber {
		return "none"
	}
	return counterNames[c]
}

type counters [countersNumber]atomic.Uint64

// summarised are the counters that a faulty or hostile sender can drive. They
// are logged as sums, so that it cannot fill a disk.
var summarised = [...]Counter{
	Late, RefusedTopic, RefusedServer, RefusedRange, RefusedFull,
	LostReadings, LostStatuses, RefusedStatus, LostAlerts, UnsentMessages, LostPresence,
}
