package metadata

import (
	"fmt"
	"slices"

	statev1 "github.com/oncelog/oncelog/api/proto/state/v1"
)

// State is the machine. It is owned by one goroutine; the images it gives out belong to nobody and
// never change.
//
// A command is judged completely before anything is changed, so a refused one leaves no trace. What
// is changed is copied first, once per image given out: the image and its slices by the flags below,
// a topic or broker by being replaced.
type State struct {
	img *Image
	// shared: img has been given out, or came from someone else; it is copied before the next change.
	shared bool
	// Which slices of img are ours to change.
	ownBrokers, ownTopics, ownIDs, ownGroups bool
}

// NewState is the state before the first command.
func NewState() *State { return StateOf(emptyImage()) }

// StateOf goes on from an image. What is applied does not change the image.
func StateOf(img *Image) *State { return &State{img: img, shared: true} }

// Image gives the state as it is now.
func (s *State) Image() *Image {
	s.shared = true
	return s.img
}

// Result is what came of one command.
type Result struct {
	// Index is the command's place in the Raft log.
	Index uint64
	// Err is the refusal; nil: accepted.
	Err *Error
	// Changed: there is a new image. An accepted command that finds its work done changes nothing.
	Changed bool
	// Topic after the command, for those that create, alter or delete one.
	Topic *Topic
	// ProducerIDs is the block given out.
	ProducerIDs ProducerIDs
}

// Apply takes the command at an index of the Raft log. Indexes grow. An error means that the entry
// cannot be applied here at all: the replica must stop. A refusal is part of the Result.
func (s *State) Apply(index uint64, data []byte) (Result, error) {
	if index <= s.img.version {
		return Result{}, fmt.Errorf("metadata: entry %d applied at version %d", index, s.img.version)
	}
	c, err := DecodeCommand(data)
	if err != nil {
		return Result{}, fmt.Errorf("entry %d: %w", index, err)
	}
	return s.ApplyCommand(index, c)
}

// ApplyCommand is Apply for a decoded command.
func (s *State) ApplyCommand(index uint64, c *statev1.MetadataCommand) (Result, error) {
	r := Result{Index: index}
	switch c := c.Command.(type) {
	case *statev1.MetadataCommand_InitCluster:
		s.initCluster(c.InitCluster, &r)
	case *statev1.MetadataCommand_RegisterBroker:
		s.registerBroker(c.RegisterBroker, &r)
	case *statev1.MetadataCommand_UnregisterBroker:
		s.unregisterBroker(c.UnregisterBroker, &r)
	case *statev1.MetadataCommand_SetFeatureLevel:
		s.setFeatureLevel(c.SetFeatureLevel, &r)
	case *statev1.MetadataCommand_CreateTopic:
		s.createTopic(c.CreateTopic, &r)
	case *statev1.MetadataCommand_AlterTopic:
		s.alterTopic(c.AlterTopic, &r)
	case *statev1.MetadataCommand_DeleteTopic:
		s.deleteTopic(c.DeleteTopic, &r)
	case *statev1.MetadataCommand_ReportReplicas:
		s.reportReplicas(c.ReportReplicas, &r)
	case *statev1.MetadataCommand_ActivatePartitions:
		s.activatePartitions(c.ActivatePartitions, &r)
	case *statev1.MetadataCommand_AllocateProducerIds:
		s.allocateProducerIDs(c.AllocateProducerIds, &r)
	case *statev1.MetadataCommand_AlterDefaults:
		s.alterDefaults(c.AlterDefaults, &r)
	case *statev1.MetadataCommand_ReassignPartitions:
		s.reassignPartitions(c.ReassignPartitions, &r)
	case *statev1.MetadataCommand_CancelReassignments:
		s.cancelReassignments(c.CancelReassignments, &r)
	case *statev1.MetadataCommand_ReplaceReplicas:
		s.replaceReplicas(c.ReplaceReplicas, &r)
	case *statev1.MetadataCommand_ReportMembers:
		s.reportMembers(c.ReportMembers, &r)
	case *statev1.MetadataCommand_SetDraining:
		s.setDraining(c.SetDraining, &r)
	case *statev1.MetadataCommand_AlterAccess:
		s.alterAccess(c.AlterAccess, &r)
	default:
		return Result{}, fmt.Errorf("entry %d: %w", index, ErrUnknownCommand)
	}
	if r.Changed {
		s.edit().version = index
	}
	return r, nil
}

// edit gives the image for changing. Its slices are still shared; see the own methods.
func (s *State) edit() *Image {
	if s.shared {
		img := *s.img
		s.img = &img
		s.shared, s.ownBrokers, s.ownTopics, s.ownIDs, s.ownGroups = false, false, false, false, false
	}
	return s.img
}

func (s *State) editBrokers() *Image {
	img := s.edit()
	if !s.ownBrokers {
		img.brokers, s.ownBrokers = slices.Clone(img.brokers), true
	}
	return img
}

func (s *State) editTopics() *Image {
	img := s.edit()
	if !s.ownTopics {
		img.topics, s.ownTopics = slices.Clone(img.topics), true
	}
	if !s.ownIDs {
		img.byID, s.ownIDs = slices.Clone(img.byID), true
	}
	return img
}

func (s *State) editGroups() *Image {
	img := s.edit()
	if !s.ownGroups {
		img.groups, s.ownGroups = slices.Clone(img.groups), true
	}
	return img
}

// replaceTopic puts a changed copy in the place of a topic. The name has not changed.
func (s *State) replaceTopic(t *Topic) {
	img := s.editTopics()
	i, _ := img.findTopicID(t.ID)
	img.byID[i] = t
	if i, ok := img.findTopic(t.Name); ok && img.topics[i].ID == t.ID {
		img.topics[i] = t
	}
}
