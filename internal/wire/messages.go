package wire

import "encoding/json"

// The payloads. Member names are those of the report where it has one; see
// docs/topics.md. Every "timestamp" is seconds since the Unix epoch as a
// fraction, for people and the report's tools; freshness is judged by the
// envelope's ts alone.

// CPU is the payload of metrics/cpu: the share of all processors in use over
// the interval, in percent, 0 to 100.
type CPU struct {
	Timestamp float64 `json:"timestamp"`
	Server    string  `json:"server"`
	Interval  float64 `json:"interval_seconds"`
	CPUUsage  float64 `json:"cpu_usage"`
}

// RAM is the payload of metrics/ram: memory that is not available to new
// programs, in percent of all memory.
type RAM struct {
	Timestamp float64 `json:"timestamp"`
	Server    string  `json:"server"`
	RAMUsage  float64 `json:"ram_usage"`
}

// How the SYN packets of a reading were counted.
const (
	SYNNFTables = "nftables"  // a kernel counter: exact
	SYNPacket   = "af_packet" // a kernel socket filter: exact, but for IPv6 packets with extension headers
	SYNEstimate = "estimate"  // derived from TCP's counters: a SYN that was neither completed nor dropped is not seen
)

// Network is the payload of metrics/network.
type Network struct {
	Timestamp            float64 `json:"timestamp"`
	Server               string  `json:"server"`
	Interval             float64 `json:"interval_seconds"`
	ActiveTCPConnections uint64  `json:"active_tcp_connections"` // established, the whole host
	SYNPacketCount       uint64  `json:"syn_packet_count"`       // received during the interval
	SYNMethod            string  `json:"syn_method"`
	ListenDrops          uint64  `json:"listen_drops"`     // during the interval
	ListenOverflows      uint64  `json:"listen_overflows"` // during the interval
	SyncookiesSent       uint64  `json:"syncookies_sent"`  // during the interval
	HalfOpen             uint64  `json:"half_open"`        // in SYN_RECV now
}

// The report's alert texts, verbatim.
const (
	AlertCPU         = "CPU usage exceeded threshold"
	AlertRAM         = "RAM usage exceeded threshold"
	AlertSYN         = "SYN packet count exceeded threshold"
	AlertConnections = "Active TCP connections exceeded threshold"
)

// What an alert reports of its incident.
const (
	StateRaised = "raised"
	StateEnded  = "ended"
)

// Alert is the payload of alerts: one when an incident begins, one when it
// ends, with the same incident.
type Alert struct {
	Timestamp float64 `json:"timestamp"`
	Alert     string  `json:"alert"`    // one of the texts above
	State     string  `json:"state"`    // StateRaised or StateEnded
	Incident  ID      `json:"incident"` // 128 bits
	Server    string  `json:"server"`
	Metric    string  `json:"metric"` // the report's field name: cpu_usage, ...
	Value     float64 `json:"value"`  // what was measured
	Threshold float64 `json:"threshold"`
	Window    float64 `json:"window_seconds"` // what value was measured over, 0 for a level
}

// The commands.
const (
	EnableRateLimiting  = "enable_rate_limiting"
	DisableRateLimiting = "disable_rate_limiting"
	ScaleUpServers      = "scale_up_servers"
	ScaleDownServers    = "scale_down_servers"
	HoldAutomation      = "hold_automation"
)

// AllServers stands for every pool of a controller.
const AllServers = "*"

// Parameters are what a command wants, absolutely. A member that a command
// does not use is zero and absent.
type Parameters struct {
	RatePerSecond float64 `json:"rate_per_second,omitempty"` // enable_rate_limiting: for each client address
	Burst         int     `json:"burst,omitempty"`           // enable_rate_limiting
	Servers       int     `json:"servers,omitempty"`         // scale_up_servers: backends wanted in all
}

// Command is the payload of control/command. It refuses unknown members.
type Command struct {
	Timestamp  float64    `json:"timestamp"`
	ID         ID         `json:"id"`
	Command    string     `json:"command"`
	Controller string     `json:"controller"`
	Server     string     `json:"server"` // that server's pool, or AllServers
	Parameters Parameters `json:"parameters"`
	Issued     int64      `json:"issued"`            // ms since the epoch; the same in every repetition
	TTL        int64      `json:"ttl_seconds"`       // the wanted state ends at issued + ttl, and so does the command
	Cause      string     `json:"cause,omitempty"`   // automatic: the metric that crossed its threshold
	Incident   ID         `json:"incident,omitzero"` // automatic: the alert's
	Sensors    []string   `json:"sensors,omitempty"` // automatic: whose readings caused it
}

// The outcome of a command.
const (
	StatusSuccess = "success"
	StatusFailure = "failure"
)

// The states that a status reports.
const (
	StateActive  = "active"  // in force until Until
	StateLapsed  = "lapsed"  // ended by its time to live
	StateStopped = "stopped" // ended by a command
	StateRefused = "refused" // not acted on: Reason says why
	StateFailed  = "failed"  // acted on without effect: Reason says why
)

// Status is the payload of status/scaling and status/rate_limiting.
type Status struct {
	Timestamp  float64    `json:"timestamp"`
	ID         ID         `json:"id"` // the command's
	Command    string     `json:"command"`
	Status     string     `json:"status"` // StatusSuccess or StatusFailure
	State      string     `json:"state"`
	Controller string     `json:"controller"`
	Server     string     `json:"server"`
	Parameters Parameters `json:"parameters"`
	Until      int64      `json:"until"` // ms since the epoch; 0 when nothing is in force
	Reason     string     `json:"reason,omitempty"`
}

// Drop declares sequence numbers that a sender gave up before they were
// delivered: [boot, first, last] in JSON, boot as 11 hexadecimal digits, both
// ends included.
type Drop struct {
	Boot        string
	First, Last uint64
}

// MarshalJSON returns [boot, first, last].
func (d Drop) MarshalJSON() ([]byte, error) {
	return json.Marshal([3]any{d.Boot, d.First, d.Last})
}

// UnmarshalJSON accepts exactly [boot, first, last].
func (d *Drop) UnmarshalJSON(b []byte) error {
	var parts []json.RawMessage
	if err := json.Unmarshal(b, &parts); err != nil || len(parts) != 3 {
		return payloadError("a dropped range is not [boot, first, last]")
	}
	for i, part := range []any{&d.Boot, &d.First, &d.Last} {
		if err := json.Unmarshal(parts[i], part); err != nil {
			return payloadError("a dropped range is not [boot, first, last]")
		}
	}
	return nil
}

// Digest is the payload of digests: a sender's signature over what it sent in
// [First, Last] of Boot. Hash is SHA-256 over the concatenated SHA-256 of each
// whole envelope, MAC included, in the order of seq, without what Dropped
// declares; 43 base64url characters.
type Digest struct {
	Timestamp float64 `json:"timestamp"`
	Boot      string  `json:"boot"` // 11 hex digits, as in the nonce
	First     uint64  `json:"first"`
	Last      uint64  `json:"last"`
	Dropped   []Drop  `json:"dropped"`
	Hash      string  `json:"hash"`
}

// MaxRevoked bounds the entries of one list of revocations.
const MaxRevoked = 256

// Revocations is the payload of revocations: everything that is revoked now. It
// refuses unknown members. What it must hold beyond its shape, package
// pki/revocation checks.
type Revocations struct {
	Timestamp float64   `json:"timestamp"`
	Number    uint64    `json:"number"` // raised with each change of Revoked; never above the envelope's ts plus the skew
	Issued    int64     `json:"issued"` // ms since the epoch, of this list
	Revoked   []Revoked `json:"revoked"`
}

// Revoked is one entry: of an identity, with Sender, Before and perhaps
// Generation, or of one certificate, with Serial and Until.
type Revoked struct {
	Sender     string `json:"sender,omitempty"`     // site/role/name, of a machine or a person
	Before     int64  `json:"before,omitempty"`     // ms since the epoch: its certificates whose notBefore is earlier are revoked
	Generation uint32 `json:"generation,omitempty"` // its messages of a lower generation are refused; 0: none are
	Serial     ID     `json:"serial,omitzero"`      // of a certificate of the site
	Until      int64  `json:"until,omitempty"`      // ms since the epoch: the certificate's notAfter, after which the entry may go
}
