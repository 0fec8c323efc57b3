package crypt

import "fmt"

// Role is what a key may do. A greater role may do all that a lesser one may.
type Role uint8

const (
	Writer     Role = 1 // backs up; reads no content and no file name
	Maintainer Role = 2 // also forgets, prunes and checks; reads no content
	Owner      Role = 3 // all
)

// String returns writer, maintainer or owner.
func (r Role) String() string {
	switch r {
	case Writer:
		return "writer"
	case Maintainer:
		return "maintainer"
	case Owner:
		return "owner"
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// ParseRole is the inverse of [Role.String] for the three roles.
func ParseRole(s string) (Role, error) {
	for r := Writer; r <= Owner; r++ {
		if s == r.String() {
			return r, nil
		}
	}
	return 0, fmt.Errorf("crypt: %q is no role; the roles are writer, maintainer and owner", s)
}

func (r Role) valid() bool { return Writer <= r && r <= Owner }
