//! What a consent permits at an instant: what the inference path asks for every request.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::consent::{AnonymizationLevel, ConsentRecord, ConsentStatus};
use super::instant;
use super::json::{Object, WriteJson};

/// What may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    Images,
    Embeddings,
    Training,
    Anonymization,
}

impl Permission {
    pub const ALL: [Self; 4] = [Self::Images, Self::Embeddings, Self::Training, Self::Anonymization];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Embeddings => "embeddings",
            Self::Training => "training",
            Self::Anonymization => "anonymization",
        }
    }
}

/// Why something is permitted, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    Granted,
    /// There is a consent in force, and it does not include this.
    NotGranted,
    NeverGiven,
    Withdrawn,
    Expired,
    UnknownCustomer,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::NotGranted => "not_granted",
            Self::NeverGiven => "never_given",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
            Self::UnknownCustomer => "unknown_customer",
        }
    }
}

/// What holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Permissions {
    pub can_store_images: bool,
    pub can_store_embeddings: bool,
    pub can_use_for_training: bool,
    pub anonymization_level: AnonymizationLevel,
}

impl Permissions {
    pub const NONE: Self = Self {
        can_store_images: false,
        can_store_embeddings: false,
        can_use_for_training: false,
        anonymization_level: AnonymizationLevel::Full,
    };

    /// What the record permits at `now`, and why. Nothing is permitted without a record.
    pub fn at(record: Option<&ConsentRecord>, now: DateTime<Utc>) -> (Self, Reason) {
        let Some(record) = record else {
            return (Self::NONE, Reason::UnknownCustomer);
        };
        match record.status(now) {
            ConsentStatus::NeverGiven => (Self::NONE, Reason::NeverGiven),
            ConsentStatus::Withdrawn => (Self::NONE, Reason::Withdrawn),
            ConsentStatus::Expired => (Self::NONE, Reason::Expired),
            ConsentStatus::Active => (
                Self {
                    can_store_images: record.can_store_images,
                    can_store_embeddings: record.can_store_embeddings,
                    can_use_for_training: record.can_use_for_training,
                    anonymization_level: record.anonymization_level,
                },
                Reason::Granted,
            ),
        }
    }
}

/// All that is permitted now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = PermissionsAnswer)]
pub struct HeldPermissions {
    pub customer_id: Uuid,
    pub permissions: Permissions,
    pub reason: Reason,
    /// The version of the consent that was judged; 0 when there is none.
    #[schema(minimum = 0, example = 3)]
    pub version: i32,
    /// Until when this holds if nothing changes; null when there is no end.
    #[serde(serialize_with = "instant::serialize")]
    pub valid_until: Option<DateTime<Utc>>,
    /// Present when the database could not be asked: the consent may have been changed meanwhile, though not long ago.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub stale: bool,
}

/// Whether one use of the data is permitted now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageCheck {
    pub customer_id: Uuid,
    pub permission: StoragePermission,
    pub allowed: bool,
    pub reason: Reason,
    /// The version of the consent that was judged; 0 when there is none.
    #[schema(minimum = 0, example = 3)]
    pub version: i32,
    /// Until when this holds if nothing changes; null when there is no end.
    #[serde(serialize_with = "instant::serialize")]
    pub valid_until: Option<DateTime<Utc>>,
    /// Present when the database could not be asked: the consent may have been changed meanwhile, though not long ago.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub stale: bool,
}

/// How far what is kept must be anonymised now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AnonymizationCheck {
    pub customer_id: Uuid,
    pub permission: LevelPermission,
    pub level: AnonymizationLevel,
    pub reason: Reason,
    /// The version of the consent that was judged; 0 when there is none.
    #[schema(minimum = 0, example = 3)]
    pub version: i32,
    /// Until when this holds if nothing changes; null when there is no end.
    #[serde(serialize_with = "instant::serialize")]
    pub valid_until: Option<DateTime<Utc>>,
    /// Present when the database could not be asked: the consent may have been changed meanwhile, though not long ago.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub stale: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoragePermission {
    StoreImages,
    StoreEmbeddings,
    UseForTraining,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LevelPermission {
    AnonymizationLevel,
}

impl StoragePermission {
    fn as_str(self) -> &'static str {
        match self {
            Self::StoreImages => "store_images",
            Self::StoreEmbeddings => "store_embeddings",
            Self::UseForTraining => "use_for_training",
        }
    }
}

impl LevelPermission {
    fn as_str(self) -> &'static str {
        match self {
            Self::AnonymizationLevel => "anonymization_level",
        }
    }
}

/// The answer to one check; which form it has, `permission` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum PermissionCheck {
    Storage(StorageCheck),
    Anonymization(AnonymizationCheck),
}

impl HeldPermissions {
    /// Judges the record at `now`; without one the customer is unknown.
    pub fn judge(customer_id: Uuid, record: Option<&ConsentRecord>, now: DateTime<Utc>) -> Self {
        let (permissions, reason) = Permissions::at(record, now);
        Self {
            customer_id,
            permissions,
            reason,
            version: record.map_or(0, |record| record.version),
            valid_until: record.filter(|_| reason == Reason::Granted).and_then(|record| record.expires_at),
            stale: false,
        }
    }

    /// Whether it permits nothing at all.
    pub fn is_denial(&self) -> bool {
        self.permissions == Permissions::NONE
    }

    /// The answer to a question for one permission alone.
    pub fn check(self, permission: Permission) -> PermissionCheck {
        let Self { customer_id, permissions, reason, version, valid_until, stale } = self;
        let storage = |permission, allowed| {
            let reason = if allowed || reason != Reason::Granted { reason } else { Reason::NotGranted };
            let check =
                StorageCheck { customer_id, permission, allowed, reason, version, valid_until, stale };
            PermissionCheck::Storage(check)
        };
        match permission {
            Permission::Images => storage(StoragePermission::StoreImages, permissions.can_store_images),
            Permission::Embeddings => {
                storage(StoragePermission::StoreEmbeddings, permissions.can_store_embeddings)
            }
            Permission::Training => {
                storage(StoragePermission::UseForTraining, permissions.can_use_for_training)
            }
            Permission::Anonymization => PermissionCheck::Anonymization(AnonymizationCheck {
                customer_id,
                permission: LevelPermission::AnonymizationLevel,
                level: permissions.anonymization_level,
                reason,
                version,
                valid_until,
                stale,
            }),
        }
    }
}

impl WriteJson for HeldPermissions {
    fn write_json(&self, out: &mut Vec<u8>) {
        let mut object = Object::begin(out);
        object.uuid("customer_id", self.customer_id).object("permissions", |permissions| {
            let held = &self.permissions;
            permissions
                .boolean("can_store_images", held.can_store_images)
                .boolean("can_store_embeddings", held.can_store_embeddings)
                .boolean("can_use_for_training", held.can_use_for_training)
                .word("anonymization_level", held.anonymization_level.as_str());
        });
        close(object, self.reason, self.version, self.valid_until, self.stale);
    }
}

impl WriteJson for PermissionCheck {
    fn write_json(&self, out: &mut Vec<u8>) {
        let mut object = Object::begin(out);
        match self {
            Self::Storage(check) => {
                object
                    .uuid("customer_id", check.customer_id)
                    .word("permission", check.permission.as_str())
                    .boolean("allowed", check.allowed);
                close(object, check.reason, check.version, check.valid_until, check.stale);
            }
            Self::Anonymization(check) => {
                object
                    .uuid("customer_id", check.customer_id)
                    .word("permission", check.permission.as_str())
                    .word("level", check.level.as_str());
                close(object, check.reason, check.version, check.valid_until, check.stale);
            }
        }
    }
}

/// What all answers end in.
fn close(
    mut object: Object<'_>,
    reason: Reason,
    version: i32,
    valid_until: Option<DateTime<Utc>>,
    stale: bool,
) {
    object
        .word("reason", reason.as_str())
        .integer("version", Some(version.into()))
        .instant("valid_until", valid_until);
    if stale {
        object.boolean("stale", true);
    }
    object.end();
}

impl PermissionCheck {
    /// Whether it permits nothing: for the level, that everything is to be anonymised.
    pub fn is_denial(&self) -> bool {
        match self {
            Self::Storage(check) => !check.allowed,
            Self::Anonymization(check) => check.level == AnonymizationLevel::Full,
        }
    }
}
