package siem

// kind says how events of one ID are spelt: what people call them, and what they
// are to OCSF.
type kind struct {
	name     string
	severity Severity
	class    class
	activity activity
}

// class is a class of OCSF; category and uid make its number.
type class struct {
	uid          int
	name         string
	category     int
	categoryName string
}

// activity is what a class calls what happened.
type activity struct {
	id   int
	name string
}

// The classes in use, of OCSF 1.8.0.
var (
	detectionFinding     = class{2004, "Detection Finding", 2, "Findings"}
	entityManagement     = class{3004, "Entity Management", 3, "Identity & Access Management"}
	applicationLifecycle = class{6002, "Application Lifecycle", 6, "Application Activity"}
	applicationError     = class{6008, "Application Error", 6, "Application Activity"}
	remediationActivity  = class{7001, "Remediation Activity", 7, "Remediation"}
)

// The activities of those classes.
var (
	create       = activity{1, "Create"}
	closed       = activity{3, "Close"}
	activate     = activity{10, "Activate"}
	deactivate   = activity{11, "Deactivate"}
	start        = activity{3, "Start"}
	stop         = activity{4, "Stop"}
	generalError = activity{1, "General Error"}
)

// kinds has every ID. The activity of a command follows from the command.
var kinds = map[ID]kind{
	AlertRaised:     {"Alert raised", High, detectionFinding, create},
	AlertEnded:      {"Alert ended", Informational, detectionFinding, closed},
	CommandIssued:   {"Command issued", Medium, remediationActivity, activity{}},
	CommandStatus:   {"Command answered", Informational, remediationActivity, activity{}},
	AccessRevoked:   {"Access revoked", Medium, entityManagement, deactivate},
	AccessRestored:  {"Machine readmitted", Medium, entityManagement, activate},
	MachineGone:     {"Machine gone", Medium, applicationLifecycle, stop},
	MessageRefused:  {"Message refused", Medium, detectionFinding, create},
	GapFound:        {"Messages missing", Medium, detectionFinding, create},
	GapClosed:       {"Missing messages accounted for", Informational, detectionFinding, closed},
	LogContradicted: {"Log contradicts what was signed", Critical, detectionFinding, create},
	RecorderError:   {"Recorder reports an error", High, applicationError, generalError},
	RecorderStarted: {"Recorder started", Informational, applicationLifecycle, start},
	RecorderStopped: {"Recorder stopped", Low, applicationLifecycle, stop},
	EventsDropped:   {"Events dropped", High, applicationError, generalError},
}

// tactics are the activities of commands: OCSF names them by the tactics of
// MITRE D3FEND.
var tactics = map[string]activity{
	"enable_rate_limiting":  {1, "Isolate"},
	"disable_rate_limiting": {3, "Restore"},
	"scale_up_servers":      {4, "Harden"},
	"scale_down_servers":    {3, "Restore"},
}

// activityOf returns the activity of an event.
func activityOf(e Event) activity {
	if a := kinds[e.ID].activity; a.id != 0 {
		return a
	}
	if a, ok := tactics[e.Action]; ok {
		return a
	}
	return activity{99, e.Action} // Other; the name says which
}
