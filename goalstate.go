package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// goalState is what the wire server wants of this VM, as far as provisioning
// needs it. Its ids are echoed in every report.
type goalState struct {
	Incarnation     string
	ContainerID     string
	InstanceID      string // of the first role instance
	CertificatesURL string // may be empty
	Fetched         time.Time
}

// errNoRole is a goal state without a role instance: the host is not ready yet.
var errNoRole = errors.New("no role instance in the goal state yet")

const (
	maxGoalStateID    = 256
	maxGoalStateDepth = 16
)

// parseGoalState reads a GoalState document of version 2012-11-30.
func parseGoalState(doc []byte) (*goalState, error) {
	gs := &goalState{}
	fields := map[string]*string{
		"GoalState/Incarnation":                                                        &gs.Incarnation,
		"GoalState/Container/ContainerId":                                              &gs.ContainerID,
		"GoalState/Container/RoleInstanceList/RoleInstance/InstanceId":                 &gs.InstanceID,
		"GoalState/Container/RoleInstanceList/RoleInstance/Configuration/Certificates": &gs.CertificatesURL,
	}
	d := xml.NewDecoder(bytes.NewReader(bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf"))))
	var path []string
	var text strings.Builder
	sawRoot := false
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			line, column := d.InputPos()
			return nil, fmt.Errorf("goal state, line %d, column %d: %s", line, column, xmlReason(err))
		}
		switch t := tok.(type) {
		case xml.Directive:
			return nil, errors.New("goal state: document type declarations are refused")
		case xml.StartElement:
			if path = append(path, t.Name.Local); len(path) > maxGoalStateDepth {
				return nil, errors.New("goal state: nested too deep")
			}
			if path[0] != "GoalState" {
				return nil, errors.New("goal state: the root is not GoalState")
			}
			sawRoot = true
			text.Reset()
		case xml.CharData:
			text.Write(t)
		case xml.EndElement:
			// The first of several role instances counts.
			if p := fields[strings.Join(path, "/")]; p != nil && *p == "" {
				*p = strings.TrimSpace(text.String())
			}
			path = path[:len(path)-1]
			text.Reset()
		}
	}
	for name, v := range map[string]string{"Incarnation": gs.Incarnation, "ContainerId": gs.ContainerID} {
		if !sawRoot || v == "" {
			return nil, fmt.Errorf("goal state: %s is missing or empty", name)
		}
	}
	for name, v := range map[string]string{"Incarnation": gs.Incarnation, "ContainerId": gs.ContainerID, "InstanceId": gs.InstanceID} {
		if len(v) > maxGoalStateID {
			return nil, fmt.Errorf("goal state: %s is longer than %d bytes", name, maxGoalStateID)
		}
	}
	if gs.InstanceID == "" {
		return gs, errNoRole
	}
	return gs, nil
}

func (g *goalState) json() object {
	return object{{"incarnation", g.Incarnation}, {"container_id", g.ContainerID}, {"instance_id", g.InstanceID}, {"certificates_url", g.CertificatesURL}}
}
