package node

import (
	"errors"
	"slices"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestAnswersAreInTheOrderOfTheQuestions(t *testing.T) {
	odd := errors.New("odd")
	answers, failures := AskAll([]int{1, 2, 3}, func(n int) (int, error) {
		if n%2 == 1 {
			return 0, odd
		}
		return 10 * n, nil
	})
	if !slices.Equal(answers, []int{0, 20, 0}) || !slices.Equal(failures, []error{odd, nil, odd}) {
		t.Errorf("got %v, %v", answers, failures)
	}
}

func TestAChangeOfPlaceIsSignalledOnce(t *testing.T) {
	n := New(Timing{}, hclog.NewNullLogger())
	defer n.Life.End()
	n.TakePlace()
	n.TakePlace()
	if !n.IsPlaced() || len(n.PlaceChanged()) != 1 {
		t.Errorf("placed %v, with %d signals", n.IsPlaced(), len(n.PlaceChanged()))
	}
}
