package siem

import (
	"bytes"
	"encoding/json"
)

// ocsfVersion is the schema that the lines follow.
const ocsfVersion = "1.8.0"

// record is an event in OCSF. Members stand in this order.
type record struct {
	ActivityID   int    `json:"activity_id"`
	ActivityName string `json:"activity_name"`
	CategoryUID  int    `json:"category_uid"`
	CategoryName string `json:"category_name"`
	ClassUID     int    `json:"class_uid"`
	ClassName    string `json:"class_name"`
	TypeUID      int    `json:"type_uid"` // class_uid * 100 + activity_id
	SeverityID   int    `json:"severity_id"`
	Severity     string `json:"severity"`
	Time         int64  `json:"time"` // ms since the epoch
	Message      string `json:"message,omitempty"`
	StatusID     int    `json:"status_id,omitempty"`
	Status       string `json:"status,omitempty"`
	StatusCode   string `json:"status_code,omitempty"`
	StatusDetail string `json:"status_detail,omitempty"`

	Finding    *finding   `json:"finding_info,omitempty"`
	IsAlert    bool       `json:"is_alert,omitempty"`
	Resources  []resource `json:"resources,omitempty"`
	CommandUID string     `json:"command_uid,omitempty"`
	Actor      *actor     `json:"actor,omitempty"`
	Entity     *entity    `json:"entity,omitempty"`
	App        *maker     `json:"app,omitempty"`

	Metadata metadata `json:"metadata"`
	Unmapped unmapped `json:"unmapped,omitzero"`
}

type finding struct {
	UID   string `json:"uid"`
	Title string `json:"title"`
}

type resource struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	RoleID int    `json:"role_id"` // 3: affected
}

type actor struct {
	User entity `json:"user"`
}

type entity struct {
	UID  string `json:"uid,omitempty"`
	Name string `json:"name"`
}

type maker struct {
	Name    string `json:"name"`
	Vendor  string `json:"vendor_name"`
	Version string `json:"version,omitempty"`
	UID     string `json:"uid,omitempty"`
}

type metadata struct {
	Version   string `json:"version"`
	Product   maker  `json:"product"`
	UID       string `json:"uid"`
	EventCode string `json:"event_code"`
	Processed int64  `json:"processed_time"` // ms since the epoch
	Source    string `json:"log_source"`
	Object    string `json:"correlation_uid,omitempty"`
}

// unmapped is what OCSF has no place for.
type unmapped struct {
	Sender string   `json:"sender,omitempty"`
	Server string   `json:"server,omitempty"`
	Action string   `json:"command,omitempty"`
	Reason string   `json:"reason,omitempty"`
	Topic  string   `json:"topic,omitempty"`
	Broker string   `json:"broker,omitempty"`
	Metric string   `json:"metric,omitempty"`
	Value  *float64 `json:"value,omitempty"`
	Limit  *float64 `json:"threshold,omitempty"`
	Count  uint64   `json:"count,omitempty"`
	Late   bool     `json:"late,omitempty"`
}

// appendOCSF appends an event as one line of JSON.
func appendOCSF(b []byte, e Event, o origin, uid string) []byte {
	k, a := kinds[e.ID], activityOf(e)
	r := record{ActivityID: a.id, ActivityName: a.name, CategoryUID: k.class.category, CategoryName: k.class.categoryName, ClassUID: k.class.uid, ClassName: k.class.name,
		TypeUID: k.class.uid*100 + a.id, SeverityID: int(e.Severity), Severity: severities[e.Severity].name, Time: e.Time.UnixMilli(), Message: e.Message,
		Metadata: metadata{Version: ocsfVersion, Product: maker{Name: product, Vendor: vendor, Version: o.version}, UID: uid, EventCode: string(e.ID),
			Processed: e.Received.UnixMilli(), Source: o.host, Object: e.Object},
		Unmapped: unmapped{Sender: e.Sender, Server: e.Server, Action: e.Action, Reason: e.Reason, Topic: e.Topic, Broker: e.Broker, Count: e.Count, Late: e.Late}}
	if e.Metric != "" {
		r.Unmapped.Metric, r.Unmapped.Value, r.Unmapped.Limit = e.Metric, &e.Value, &e.Limit
	}
	switch e.Outcome {
	case Success:
		r.StatusID, r.Status = 1, "Success"
	case Failure:
		r.StatusID, r.Status = 2, "Failure"
	}
	switch k.class {
	case detectionFinding:
		r.finding(e, k, uid)
	case remediationActivity:
		r.CommandUID, r.StatusDetail = e.Object, e.Reason
	case entityManagement:
		r.Entity = &entity{UID: e.Object, Name: e.Sender}
		if e.Actor != "" {
			r.Actor = &actor{entity{Name: e.Actor}}
		}
	case applicationLifecycle:
		r.App, r.StatusDetail = &maker{Name: product, Vendor: vendor, Version: o.version}, e.Reason
		if e.Sender != "" {
			r.App = &maker{Name: "levee", Vendor: vendor, UID: e.Sender}
		}
	case applicationError:
		r.StatusDetail = e.Reason
	}
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(r); err != nil { // a record has nothing that JSON has not: a test holds it
		return b
	}
	return append(b, bytes.TrimSuffix(line.Bytes(), []byte("\n"))...)
}

// finding fills in what a Detection Finding has. The status is the finding's, and
// no outcome.
func (r *record) finding(e Event, k kind, uid string) {
	r.Finding = &finding{UID: e.Object, Title: k.name}
	if e.Object == "" {
		r.Finding.UID = uid // a finding of its own
	}
	r.StatusID, r.Status = 1, "New"
	if r.ActivityID == closed.id {
		r.StatusID, r.Status = 4, "Resolved"
	}
	r.IsAlert = r.ActivityID == create.id
	r.StatusCode = e.Reason
	switch {
	case e.Server != "":
		r.Resources = []resource{{Name: e.Server, Type: "server", RoleID: 3}}
	case e.Sender != "":
		r.Resources = []resource{{Name: e.Sender, Type: "levee part", RoleID: 3}}
	}
}
