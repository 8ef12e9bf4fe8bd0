//go:build !linux && !darwin

package cluster

import "errors"

// bootID is not available here, so each start may be one from a copy.
func bootID() (string, error) { return "", errors.ErrUnsupported }

func identify(string) (fileID, error) { return fileID{}, errors.ErrUnsupported }

func undisturbed(string) (bool, error) { return false, errors.ErrUnsupported }
