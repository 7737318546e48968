package command

import (
	"reflect"
	"testing"
)

func TestAnEntryOfHraftdIsTakenAsHraftdTookIt(t *testing.T) {
	for entry, want := range map[string]Op{
		`{"op":"set","key":"user1","value":"batman"}`:     {Kind: Set, Key: "user1", Value: []byte("batman")},
		`{"op":"set","key":"user1"}`:                      {Kind: Set, Key: "user1", Value: []byte{}},
		`{"op":"set","value":"of nobody"}`:                {Kind: Set, Value: []byte("of nobody")},
		`{"op":"delete","key":"user1"}`:                   {Kind: Delete, Key: "user1"},
		`{"op":"delete"}`:                                 {Kind: Delete},
		`{"op":"delete","key":"k","value":"of no use"}`:   {Kind: Delete, Key: "k"},
		`{"OP":"set","Key":"k","value":"v","more":true}`:  {Kind: Set, Key: "k", Value: []byte("v")},
		`{"op":"set","key":"\u003c\ufffd","value":"\""} `: {Kind: Set, Key: "<\ufffd", Value: []byte(`"`)},
	} {
		if op, err := DecodeLegacy([]byte(entry)); err != nil || !reflect.DeepEqual(op, want) {
			t.Errorf("%s: %+v, %v; want %+v", entry, op, err, want)
		}
		if !IsLegacy([]byte(entry)) {
			t.Errorf("%s is not told from an entry of this package", entry)
		}
		if reqs, err := Decode([]byte(entry)); err == nil {
			t.Errorf("%s: Decode takes it for %+v", entry, reqs)
		}
	}
}

func TestWhatHraftdCannotHaveWrittenIsNotDecoded(t *testing.T) {
	for _, entry := range []string{
		``, `null`, `[]`, `"set"`, `{}`, `{`, `{"op":"set","key":"k","value":"v"`, `{"op":"set","key":"k"}}`, `{"op":"set","key":"k","value":1}`,
		`{"op":"get","key":"k"}`, `{"op":"SET","key":"k"}`, `{"op":"set","key":["k"]}`, "\x01\x00",
	} {
		if op, err := DecodeLegacy([]byte(entry)); err == nil {
			t.Errorf("%q is %+v", entry, op)
		}
	}
}

func TestNoEntryOfThisPackageIsTakenForOneOfHraftd(t *testing.T) {
	for _, entry := range [][]byte{nil, {}, Append(nil, nil), Append(nil, []Request{{Ops: []Op{{Kind: Set, Key: "{", Value: []byte("{")}}}})} {
		if IsLegacy(entry) {
			t.Errorf("%q", entry)
		}
	}
}
