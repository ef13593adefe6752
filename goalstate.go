package main

import (
	"errors"
	"fmt"
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

const maxGoalStateID = 256

// parseGoalState reads a GoalState document of version 2012-11-30. The first of
// several role instances counts.
func parseGoalState(doc []byte) (*goalState, error) {
	gs := &goalState{}
	fields := map[string]*string{
		"GoalState/Incarnation":                                                        &gs.Incarnation,
		"GoalState/Container/ContainerId":                                              &gs.ContainerID,
		"GoalState/Container/RoleInstanceList/RoleInstance/InstanceId":                 &gs.InstanceID,
		"GoalState/Container/RoleInstanceList/RoleInstance/Configuration/Certificates": &gs.CertificatesURL,
	}
	if err := xmlFields(doc, "GoalState", fields); err != nil {
		return nil, fmt.Errorf("goal state: %w", err)
	}
	for name, v := range map[string]string{"Incarnation": gs.Incarnation, "ContainerId": gs.ContainerID} {
		if v == "" {
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
