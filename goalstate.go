package main

import (
	"errors"
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
		return nil, errorf("goal state: %w", err)
	}
	switch {
	case gs.Incarnation == "":
		return nil, errors.New("goal state: Incarnation is missing or empty")
	case gs.ContainerID == "":
		return nil, errors.New("goal state: ContainerId is missing or empty")
	case max(len(gs.Incarnation), len(gs.ContainerID), len(gs.InstanceID)) > maxGoalStateID:
		return nil, errorf("goal state: an id is longer than %d bytes", maxGoalStateID)
	}
	if gs.InstanceID == "" {
		return gs, errNoRole
	}
	return gs, nil
}

func (g *goalState) json() object {
	return object{{"incarnation", g.Incarnation}, {"container_id", g.ContainerID}, {"instance_id", g.InstanceID}, {"certificates_url", g.CertificatesURL}}
}
